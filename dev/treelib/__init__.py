# SPDX-License-Identifier: GPL-2.0
"""What dev/tree does, one module per verb."""
