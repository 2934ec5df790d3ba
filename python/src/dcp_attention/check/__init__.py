# SPDX-License-Identifier: Apache-2.0

"""Compares a model's own attention with the daemons': ``python -m dcp_attention.check MODEL_OR_CONFIG``."""
