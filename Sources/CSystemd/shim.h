// SPDX-License-Identifier: Apache-2.0
// libsystemd: readiness, watchdog, passed sockets, journal. Only DCPDaemon imports it.
//
// Without this definition sd_journal_sendv is a macro, which Swift does not see. The caller passes the fields that it would
// add.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>
