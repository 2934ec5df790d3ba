// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_BF16_RATE_H
#define DCP_BF16_RATE_H

// Whether VDPBF16PS multiplies and adds more numbers in the same time than VFMADD231PS does. Only for CPUs that have
// AVX512-BF16.
int dcp_bf16_pays(void);

#endif
