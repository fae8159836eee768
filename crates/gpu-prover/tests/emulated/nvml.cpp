// As much of NVIDIA's management library as is asked of it: one device, 42 degrees, 300 W, 7 GiB in use, and one Xid.

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_FOUND = 6, TIMEOUT = 10 };

struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct Pci {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
struct Event {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

static int device;
static const char *BUS = "00000000:00:00.0";
static bool is_told = false;

extern "C" {
int nvmlInit_v2() { return SUCCESS; }
int nvmlInitWithFlags(unsigned) { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
const char *nvmlErrorString(int) { return "an error"; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle) {
    *handle = &device;
    return strcmp(bus, BUS) ? NOT_FOUND : SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *, Memory *memory) {
    memory->used = 7ull << 30;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *, int, unsigned *celsius) {
    *celsius = 42;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *, unsigned *milliwatts) {
    *milliwatts = 300000;
    return SUCCESS;
}
int nvmlDeviceGetPciInfo_v3(void *, Pci *pci) {
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", BUS);
    return SUCCESS;
}
int nvmlEventSetCreate(void **set) {
    *set = &device;
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(void *, unsigned long long, void *) { return SUCCESS; }
int nvmlEventSetFree(void *) { return SUCCESS; }
int nvmlEventSetWait_v2(void *, Event *event, unsigned milliseconds) {
    if (is_told) {
        usleep(milliseconds * 1000);
        return TIMEOUT;
    }
    is_told = true;
    *event = {&device, 8, 79, 0, 0};
    return SUCCESS;
}
}
