"""The one table of tolerances, by dtype: absolute, for values of order one. Never widened."""

import numpy as np

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 2e-2}


def assert_close(got, expected, dtype="float64", what=""):
    """Every element within the dtype's tolerance, absolute for small values, relative for large."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    tolerance = TOLERANCE[str(np.dtype(dtype))]
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=what)
