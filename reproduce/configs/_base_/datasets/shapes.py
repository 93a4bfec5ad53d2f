"""The embedded data of `datasets.shapes`, and what the small networks for them have in common."""

micro_backbone = dict(
    arch='maformer_micro',
    drop_path_rate=0.0,
    init_cfg=dict(
        checkpoint='{{fileDirname}}/../../../weights/released/maformer_micro_shapes.safetensors'
    ),
)
micro_channels = [32, 64, 96, 128]
micro_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))

# Of detectors.
detector_channels = 48
detector = dict(
    backbone=micro_backbone,
    neck=dict(in_channels=micro_channels, out_channels=detector_channels),
    rpn_head=dict(
        in_channels=detector_channels,
        feat_channels=detector_channels,
        anchor_generator=dict(scales=[4]),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
detector_roi_head = dict(
    bbox_roi_extractor=dict(out_channels=detector_channels),
    mask_roi_extractor=dict(out_channels=detector_channels),
    mask_head=dict(
        num_convs=2,
        in_channels=detector_channels,
        conv_out_channels=detector_channels,
        num_classes=10,
    ),
)
detector_rpn_training = dict(
    rpn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=300, max_per_img=100)
)
detector_optimizer = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
object_loading = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
]
object_packing = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)

# Of segmenters.
map_crop_size = (128, 128)
map_scale = (640, 160)  # the shorter side is 160
map_train_loader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        # Without PhotoMetricDistortion: here hues tell classes apart.
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomResize', scale=map_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
            dict(type='RandomCrop', crop_size=map_crop_size, cat_max_ratio=0.95),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
map_test_loader = dict(
    num_workers=1,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=map_scale, keep_ratio=True),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    ),
)
