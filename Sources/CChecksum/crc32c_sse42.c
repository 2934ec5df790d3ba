#include "CChecksum.h"

#include <string.h>

// `crc32 r64, r64` has a latency of 3 and a throughput of 1 on Intel since Nehalem and on AMD since Zen, so three
// independent streams hide the latency. Joining streams needs a carry-less multiply; one stream already runs at about
// 8 GB/s, far above any socket here, so the joining was left out.
#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *bytes, size_t count) {
    const unsigned char *at = bytes;
    uint64_t value = (uint32_t)~crc;
    for (; count >= 8; at += 8, count -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        value = _mm_crc32_u64(value, word);
    }
    uint32_t tail = (uint32_t)value;
    for (; count > 0; at++, count--) tail = _mm_crc32_u8(tail, *at);
    return ~tail;
}

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t crc32c_sse42(uint32_t crc, const void *bytes, size_t count) {
    return dcp_crc32c_scalar(crc, bytes, count);
}
static int supported(void) { return 0; }
#endif

// Filled once, before main.
static uint32_t (*chosen)(uint32_t, const void *, size_t) = dcp_crc32c_scalar;
static const char *chosen_name = "scalar";

__attribute__((constructor)) static void choose(void) {
    if (supported()) {
        chosen = crc32c_sse42;
        chosen_name = "sse4.2";
    }
}

uint32_t dcp_crc32c(uint32_t crc, const void *bytes, size_t count) { return chosen(crc, bytes, count); }

const char *dcp_crc32c_implementation(void) { return chosen_name; }
