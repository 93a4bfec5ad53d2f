_base_ = './cascade-mask-rcnn_cswin-t_fpn_4conv1fc-ms-crop-3x_coco.py'
model = dict(backbone=dict(arch='cswin_small', drop_path_rate=0.3))
