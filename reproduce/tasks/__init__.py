"""The three tasks, by name: what a job of each is, and what its complete data are called."""

from reproduce.evaluate.harness import Job

DATA = {
    'imagenet': "ImageNet-1K's 50,000 validation images",
    'coco': "COCO's 5,000 images of val2017",
    'ade20k': "ADE20K's 2,000 validation images",
}


def job_class(task: str) -> type[Job]:
    """The `Job` of `task`; only its own libraries are imported."""
    match task:
        case 'imagenet':
            from reproduce.tasks.imagenet import Job as job
        case 'coco':
            from reproduce.tasks.coco import Job as job
        case 'ade20k':
            from reproduce.tasks.ade20k import Job as job
    return job
