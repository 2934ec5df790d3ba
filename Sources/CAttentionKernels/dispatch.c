// The choice of kernels. A file for an instruction set adds its table here, behind its own check of the machine.
#include "dispatch.h"

#include "panels.h"

static const dcp_kernel_table portable = {
    .name = "portable",
    .decode_bf16 = dcp_decode_bf16_portable,
    .decode_f16 = dcp_decode_f16_portable,
    .decode_f32 = dcp_decode_f32_portable,
};

static dcp_kernel_table chosen;

__attribute__((constructor)) static void choose(void) { chosen = portable; }

const dcp_kernel_table *dcp_kernels(void) { return &chosen; }

void dcp_decode_block(int32_t data_type, const dcp_decode_rows *rows, const void *keys, const void *values,
                      const int32_t *visible) {
    switch (data_type) {
    case dcp_bf16: chosen.decode_bf16(rows, keys, values, visible); break;
    case dcp_f16: chosen.decode_f16(rows, keys, values, visible); break;
    default: chosen.decode_f32(rows, keys, values, visible);
    }
}

const char *dcp_kernels_name(void) { return chosen.name; }
