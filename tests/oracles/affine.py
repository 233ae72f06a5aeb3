"""Keras' ImageDataGenerator geometry in float64 through scipy.ndimage, as Keras applies it."""

import numpy as np
from scipy import ndimage


def keras_matrix(theta, rows, columns, shear, zoom_rows, zoom_columns):
    """The homogeneous output → input matrix about the origin: rotation · shift · shear · zoom; angles in degrees."""
    theta, shear = np.deg2rad(theta), np.deg2rad(shear)
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, rows], [0, 1, columns], [0, 0, 1]])
    shearing = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    return rotation @ shift @ shearing @ np.diag([zoom_rows, zoom_columns, 1])


def resample(image, matrix, fill, flip=False):
    """A picture (h, w, c) through `matrix`, taken about the centre, then mirrored left-right if `flip`."""
    height, width, _ = image.shape
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2] = (height - 1) / 2, (width - 1) / 2
    back[:2, 2] = -centre[:2, 2]
    full = centre @ matrix @ back
    planes = [
        ndimage.affine_transform(plane, full[:2, :2], full[:2, 2], order=1, mode=fill)
        for plane in np.moveaxis(image.astype(np.float64), 2, 0)
    ]
    result = np.stack(planes, axis=2)
    return result[:, ::-1] if flip else result
