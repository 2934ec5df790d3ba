// SPDX-License-Identifier: Apache-2.0
#ifndef DCP_FORMATS_H
#define DCP_FORMATS_H

#include <stdint.h>

// The formats of a cache: name, number, bytes of an element, and how many elements are interleaved, because one instruction
// multiplies and sums them: dimensions of a key, and tokens of a value. The enumerators, tables and functions of each are
// generated from this list. So a format is a line here, its loads (attend_loads.h, and a file for the scalar twin such as
// attend_f16.c), its writers (panels.c, panels_vector.h) and its reader (panels_read.h).
#define DCP_CACHE_FORMATS(each, ...)                                                                                   \
    each(bf16, 1, 2, 2, __VA_ARGS__)                                                                                   \
    each(f16, 2, 2, 1, __VA_ARGS__)                                                                                    \
    each(f32, 3, 4, 1, __VA_ARGS__)                                                                                    \
    each(int8, 4, 1, 4, __VA_ARGS__)                                                                                   \
    each(fp8, 5, 1, 2, __VA_ARGS__)

// The dtypes of rows. Each is also a format, with the same number.
#define DCP_ROW_TYPES(each, ...)                                                                                       \
    each(bf16, __VA_ARGS__)                                                                                            \
    each(f16, __VA_ARGS__)                                                                                             \
    each(f32, __VA_ARGS__)

#define DCP_FORMAT_NUMBER(name, number, ...) dcp_##name = number,
enum { DCP_CACHE_FORMATS(DCP_FORMAT_NUMBER, ) dcp_formats_end, dcp_row_types_end = dcp_f32 + 1 };
#undef DCP_FORMAT_NUMBER

// The numbers are on the wire and in stores. DCPAttentionTests compares them with those in Swift.
_Static_assert(dcp_bf16 == 1 && dcp_f16 == 2 && dcp_f32 == 3 && dcp_int8 == 4 && dcp_fp8 == 5,
               "DCPCore.CacheFormat and DCPCore.DataType say otherwise");

typedef struct {
    const char *name;
    int64_t element_bytes;
    int64_t interleaved;
} dcp_cache_format;

// Stops the process if the number is not a format. For a constant number, the result is a constant.
static inline __attribute__((always_inline)) dcp_cache_format dcp_format(int number) {
    switch (number) {
#define DCP_FORMAT_CASE(name, number, bytes, beside, ...)                                                              \
    case number: return (dcp_cache_format){#name, bytes, beside};
        DCP_CACHE_FORMATS(DCP_FORMAT_CASE, )
#undef DCP_FORMAT_CASE
    default: __builtin_trap();
    }
}

static inline __attribute__((always_inline)) int64_t dcp_element_bytes(int format) {
    return dcp_format(format).element_bytes;
}

// Whether a row is kept as bytes with a Float32 scale of its own: see bytes.h.
static inline __attribute__((always_inline)) int dcp_has_scales(int format) { return dcp_element_bytes(format) == 1; }

// Whether a key has a word beside its scale, with the number of a dimension that stands out: see apart.h.
static inline __attribute__((always_inline)) int dcp_has_words(int format) { return format == dcp_int8; }

// The dtype in which rows are read back. It is exact: when they are written again, they become the same bytes.
static inline int dcp_row_type_of(int format) {
    return dcp_has_scales(format) ? dcp_f32 : format;
}

// Return the number after a check that it is that of a format, or of a dtype of rows, and so an index of their tables. Any
// other number stops the process.
static inline int dcp_checked_format(int number) {
    if (number < dcp_bf16 || number >= dcp_formats_end) __builtin_trap();
    return number;
}
static inline int dcp_checked_row_type(int number) {
    if (number < dcp_bf16 || number >= dcp_row_types_end) __builtin_trap();
    return number;
}

#endif
