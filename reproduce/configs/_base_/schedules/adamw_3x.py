"""The paper's 3x schedule for detectors (Section 4.3): the 1x schedule, three times as long."""

_base_ = './adamw_1x.py'

train_cfg = dict(max_epochs=36)
warm_up, steps = _base_.param_scheduler
param_scheduler = [warm_up, {**steps, 'end': 36, 'milestones': [27, 33]}]
