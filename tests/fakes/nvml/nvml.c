/* A libnvidia-ml.so.1 for machines without an NVIDIA GPU. It answers from the file `gpus` beside it, read at every call,
 * so that a test can change what the GPUs do. It is strict where the real one is: calls before nvmlInit_v2 or after the
 * last nvmlShutdown fail, indices and handles are checked, and a list that does not fit is refused with the size needed.
 *
 * A line of the file is one GPU: `name=Fake util=5 used=1024 total=8192 procs=1 temp=40 power=30000 throttle=0 ecc=0
 * mig=0 hang=0`. A figure that is missing, or `n/a`, is NVML_ERROR_NOT_SUPPORTED. `hang=S` sleeps S seconds at each question
 * for the utilisation. A line `init=N` makes nvmlInit_v2 return N (9: the driver is not loaded).
 *
 * Signatures and numbers: https://docs.nvidia.com/deploy/nvml-api/. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, UNKNOWN = 999 };
enum { MOST = 64, LINE = 512 };

static int initialised;
static char handles[MOST];

/* The lines of the file that describe GPUs; `init` gets the answer to nvmlInit_v2. */
static int lines(char found[MOST][LINE], int *init) {
    Dl_info self;
    char path[4096];
    int count = 0;
    *init = OK;
    if (!dladdr((void *)lines, &self)) return 0;
    snprintf(path, sizeof path, "%s", self.dli_fname);
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) + 6 > sizeof path) return 0;
    strcpy(slash + 1, "gpus");
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    char line[LINE];
    while (count < MOST && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "init=", 5)) *init = atoi(line + 5);
        else if (strchr(line, '=')) strcpy(found[count++], line);
    }
    fclose(file);
    return count;
}

/* The text after `key=` in the line of a GPU, up to the next space. */
static int text(void *device, const char *key, char *value, size_t size) {
    char found[MOST][LINE];
    int init, count = lines(found, &init);
    if (!initialised) return UNINITIALIZED;
    long index = (char *)device - handles;
    if (index < 0 || index >= count) return INVALID;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%s=", key);
    for (char *word = strtok(found[index], " \n"); word; word = strtok(NULL, " \n")) {
        if (strncmp(word, wanted, strlen(wanted))) continue;
        word += strlen(wanted);
        if (!strcmp(word, "n/a")) return NOT_SUPPORTED;
        snprintf(value, size, "%s", word);
        return OK;
    }
    return NOT_SUPPORTED;
}

static int number(void *device, const char *key, unsigned long long *value) {
    char word[64];
    int result = text(device, key, word, sizeof word);
    if (result == OK) *value = strtoull(word, NULL, 10);
    return result;
}

static int small(void *device, const char *key, unsigned int *value) {
    unsigned long long wide;
    if (!value) return INVALID;
    int result = number(device, key, &wide);
    if (result == OK) *value = (unsigned int)wide;
    return result;
}

int nvmlInit_v2(void) {
    char found[MOST][LINE];
    int init;
    lines(found, &init);
    if (init == OK) initialised++;
    return init;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return OK;
}

const char *nvmlErrorString(int result) { return result == OK ? "Success" : "an error of the fake"; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    if (!initialised) return UNINITIALIZED;
    return snprintf(version, length, "999.1") < (int)length ? OK : TOO_SMALL;
}

int nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    return snprintf(version, length, "13.999.1") < (int)length ? OK : TOO_SMALL;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char found[MOST][LINE];
    int init;
    if (!initialised) return UNINITIALIZED;
    if (!count) return INVALID;
    *count = (unsigned int)lines(found, &init);
    return init;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    unsigned int count;
    int result = nvmlDeviceGetCount_v2(&count);
    if (result != OK) return result;
    if (!device || index >= count) return INVALID;
    *device = &handles[index];
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) { return text(device, "name", name, length); }

struct memory { unsigned int version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory) {
    if (!memory || memory->version != (sizeof *memory | 2u << 24)) return INVALID;
    int result = number(device, "total", &memory->total);
    if (result == OK) result = number(device, "used", &memory->used);
    memory->reserved = 0;
    if (result == OK) memory->free = memory->total - memory->used;
    return result;
}

struct utilization { unsigned int gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    unsigned long long seconds = 0;
    number(device, "hang", &seconds);
    if (seconds) sleep((unsigned int)seconds);
    if (!rates) return INVALID;
    rates->memory = 0;
    return small(device, "util", &rates->gpu);
}

struct process { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *processes) {
    unsigned int running;
    if (!count) return INVALID;
    int result = small(device, "procs", &running);
    if (result != OK) return result;
    unsigned long long first = 1000;
    number(device, "first", &first);
    unsigned int room = *count;
    *count = running;
    if (running > room) return TOO_SMALL;
    for (unsigned int at = 0; at < running; at++)
        processes[at] = (struct process){(unsigned int)first + at, 1 << 20, 0xFFFFFFFF, 0xFFFFFFFF};
    return OK;
}

int nvmlDeviceGetTemperature(void *device, unsigned int sensor, unsigned int *celsius) {
    return sensor == 0 ? small(device, "temp", celsius) : INVALID;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) { return small(device, "power", milliwatts); }

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    return reasons ? number(device, "throttle", reasons) : INVALID;
}

int nvmlDeviceGetTotalEccErrors(void *device, unsigned int kind, unsigned int counter, unsigned long long *count) {
    return count && kind <= 1 && counter <= 1 ? number(device, "ecc", count) : INVALID;
}

int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
    int result = small(device, "mig", current);
    if (result == OK && pending) *pending = *current;
    return result;
}
