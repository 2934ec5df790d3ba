// SPDX-License-Identifier: Apache-2.0
#include "CLinuxFault.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

// A slot is free, being written, or watched; the handler looks at watched ones only.
enum { FREE, TAKEN, WATCHED };

static struct {
    _Atomic int state;
    uintptr_t begin, end;
    char path[1024];
} maps[DCP_MAPS_MAX];

static char line_prefix[16];
static struct sigaction previous;

struct line {
    char bytes[2048];
    size_t count;
};

static void put(struct line *line, const char *text)
{
    size_t count = strlen(text), room = sizeof line->bytes - line->count;
    if (count > room) count = room;
    memcpy(line->bytes + line->count, text, count);
    line->count += count;
}

static void put_number(struct line *line, uintptr_t number)
{
    char digits[24];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    put(line, digits + at);
}

static void handle(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    int saved = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (int slot = 0; slot < DCP_MAPS_MAX; ++slot) {
        if (atomic_load(&maps[slot].state) != WATCHED || address < maps[slot].begin || address >= maps[slot].end)
            continue;
        struct line line = {.count = 0};
        put(&line, line_prefix);
        put(&line, maps[slot].path);
        put(&line, " cannot be read at byte ");
        put_number(&line, address - maps[slot].begin);
        put(&line,
            " (SIGBUS): the file was truncated under this process, or its disk reports an error, which dmesg shows. The "
            "process ends. Its next start checks the store's pages; then find what is damaged with `dcpctl verify`, or "
            "restore the store.\n");
        // If this write fails, nothing more can be done: there is nowhere else to report it.
        if (write(STDERR_FILENO, line.bytes, line.count) < 0) break;
        break;
    }
    errno = saved;
    // The return goes back to the instruction, which faults again: the process ends as it would have, core dump and status
    // included.
    sigaction(SIGBUS, &previous, NULL);
}

int dcp_fault_report(const char *prefix)
{
    strncpy(line_prefix, prefix, sizeof line_prefix - 1);
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &previous) < 0 ? -errno : 0;
}

int dcp_map_watch(const void *address, size_t byte_count, const char *path)
{
    if (strlen(path) >= sizeof maps[0].path) return -ENAMETOOLONG;
    for (int slot = 0; slot < DCP_MAPS_MAX; ++slot) {
        int expected = FREE;
        if (!atomic_compare_exchange_strong(&maps[slot].state, &expected, TAKEN)) continue;
        maps[slot].begin = (uintptr_t)address;
        maps[slot].end = (uintptr_t)address + byte_count;
        strcpy(maps[slot].path, path);
        atomic_store(&maps[slot].state, WATCHED);
        return slot;
    }
    return -ENOSPC;
}

void dcp_map_forget(int slot)
{
    if (slot >= 0 && slot < DCP_MAPS_MAX) atomic_store(&maps[slot].state, FREE);
}
