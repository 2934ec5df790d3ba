// libsystemd: readiness and status notifications. Only DCPDaemon imports it.
#include <systemd/sd-daemon.h>
