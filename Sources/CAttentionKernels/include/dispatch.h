#ifndef DCP_DISPATCH_H
#define DCP_DISPATCH_H

#include "decode.h"

// The kernels in use: chosen once for this machine, before main, and never changed.
typedef struct {
    const char *name; // the instruction set they are written for
    dcp_decode_kernel *decode_bf16;
    dcp_decode_kernel *decode_f16;
    dcp_decode_kernel *decode_f32;
} dcp_kernel_table;

const dcp_kernel_table *dcp_kernels(void);

// Takes one block into the rows' state with the kernel in use for a panel's element type (dcp_bf16, dcp_f16, dcp_f32).
void dcp_decode_block(int32_t data_type, const dcp_decode_rows *rows, const void *keys, const void *values,
                      const int32_t *visible);

// "portable": the name of the table in use.
const char *dcp_kernels_name(void);

#endif
