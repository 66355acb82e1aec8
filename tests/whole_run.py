"""A run as a command line, which several tests break, go on with or evaluate."""

STEPS, INTERVAL = 60, 7  # 20.3 steps an epoch
RUN = [
    "--config=configs/quickstart.py",
    "--config.model.name=resnet8",
    "--config.dataset.validation_size=138",
    "--config.train.early_stopping_patience=50",
    "--config.train.num_epochs=0",
    f"--config.train.num_steps={STEPS}",
    "--config.schedule.milestones_epochs=()",
    "--config.schedule.milestones_steps=(25,45)",
    "--config.log.every_steps=5",
    "--config.eval.every_steps=12",
    f"--config.checkpoint.every_steps={INTERVAL}",
    "--config.checkpoint.keep_every_steps=21",
    "--config.log.tensorboard=False",
]
