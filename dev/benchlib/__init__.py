# SPDX-License-Identifier: GPL-2.0
"""The measurements of dev/bench."""
