"""The building blocks of SAM 2, one concept a file, from `layers` upwards to `fpn` and `mask_decoder`."""
