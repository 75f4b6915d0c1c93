# SPDX-License-Identifier: GPL-2.0
"""What can be said of the kernel without running it: see dev/static."""
