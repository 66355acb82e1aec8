"""Names and defaults of fields in earlier versions, which manifests may still have."""

# Former name -> present name.
OLD_NAMES = {
    "log.layers_every_epochs": "log.layer_stats_every_epochs",
    "log.layers_every_steps": "log.layer_stats_every_steps",
    "optimizer.weight_decay_on": "optimizer.weight_decay_mask",
    "schedule.every_epochs": "schedule.step_every_epochs",
    "schedule.every_steps": "schedule.step_every_steps",
    "schedule.rise": "schedule.rise_fraction",
}

# Former defaults that meant the same as the present ones.
OLD_DEFAULTS = {"dataset.image_size": 224}
