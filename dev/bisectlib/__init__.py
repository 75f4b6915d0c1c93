# SPDX-License-Identifier: GPL-2.0
"""What dev/bisect does: which kernels (flavours), the source of each step, the build, the tests."""
