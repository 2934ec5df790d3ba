// SPDX-License-Identifier: Apache-2.0
// Compares kernels with their scalar twins, and with attention in float64. It is in C so that it also runs under an
// emulator, for machines on which the Swift tests do not run, and with sanitizers: see `make check-arm64` and `make
// check-kernels`.
//
//   kernel-check SET|all [SEED]
//   kernel-check list          the sets that this machine has, one in a line
//
// Exits with 0 when all cases hold, 1 when one does not, 64 when the machine has no such set.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../../Sources/CAttentionKernels/bf16_rate.h"
#include "check.h"

static uint64_t state;
long cases, failures;

uint64_t next_random(void) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

float next_float(void) { return (float)((int64_t)(next_random() >> 40) - (1 << 23)) / (1 << 23); }

guarded guarded_make(uint64_t byte_count) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), inside = (byte_count + page - 1) / page * page;
    guarded memory = {.byte_count = byte_count, .map_byte_count = inside + 2 * page};
    memory.map = mmap(NULL, memory.map_byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.map == MAP_FAILED || mprotect(memory.map, page, PROT_NONE) != 0
        || mprotect((char *)memory.map + page + inside, page, PROT_NONE) != 0) {
        perror("kernel-check: guarded memory");
        exit(71);
    }
    memory.base = (char *)memory.map + page + inside - byte_count;
    return memory;
}

void guarded_free(guarded memory) { munmap(memory.map, memory.map_byte_count); }

void check(int holds, const char *format, ...) {
    cases++;
    if (holds) return;
    if (failures++ < 20) {
        va_list arguments;
        va_start(arguments, format);
        fputs("FAILED: ", stderr);
        vfprintf(stderr, format, arguments);
        fputc('\n', stderr);
        va_end(arguments);
    }
}

static void check_set(const dcp_kernel_table *kernels, uint64_t seed) {
    state = seed;
    cases = 0;
    const long failures_before = failures;
    check_panels(kernels);
    check_bytes(kernels);
    const long panels = cases;
    check_attention(kernels);
    printf("%s: %ld comparisons of panels and %ld of attention, %ld failed, seed %llu\n", kernels->name, panels,
           cases - panels, failures - failures_before, (unsigned long long)seed);
}

// The bits of results depend on which set is the fastest, so the answer must be the same in every process, whatever else
// the machine does.
static void check_rate(void) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512bf16")) return;
    const int pays = dcp_bf16_pays();
    for (int i = 0; i < 2000; i++) check(dcp_bf16_pays() == pays, "whether VDPBF16PS pays, attempt %d", i);
    printf("VDPBF16PS %s on this machine\n", pays ? "pays" : "does not pay");
#endif
}

int main(int count, char **arguments) {
    const char *name = count > 1 ? arguments[1] : "";
    const uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
    if (strcmp(name, "list") == 0) {
        for (int i = 1; i < dcp_kernels_count(); i++) puts(dcp_kernels(i)->name);
        return dcp_kernels_count() > 1 ? 0 : 64;
    }
    int found = 0;
    check_rate();
    for (int i = 1; i < dcp_kernels_count(); i++) {
        if (strcmp(dcp_kernels(i)->name, name) != 0 && strcmp(name, "all") != 0) continue;
        check_set(dcp_kernels(i), seed);
        found = 1;
    }
    if (!found) {
        fprintf(stderr, "kernel-check: this machine has no kernels `%s` to compare with scalar ones; it has", name);
        for (int i = 1; i < dcp_kernels_count(); i++) fprintf(stderr, " %s", dcp_kernels(i)->name);
        fputs(".\n", stderr);
        return 64;
    }
    return failures ? 1 : 0;
}
