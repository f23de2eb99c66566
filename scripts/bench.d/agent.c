// The same NVML calls as the agent's sample of all GPUs, in a loop: prints microseconds of processor time per sample.
//
// usage: agent LIBRARY SAMPLES. Declares what it needs of nvml.h, so that it compiles without CUDA.

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef void *device;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;

#define WARM_UP 50
#define MOST_GPUS 64
#define MEMORY_V2 (unsigned)(sizeof(memory) | 2u << 24)

static void *library;

static void *find(const char *name) {
    void *function = dlsym(library, name);
    if (!function) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        exit(1);
    }
    return function;
}

static double cpu_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(int count, char **arguments) {
    if (count != 3 || !(library = dlopen(arguments[1], RTLD_NOW))) {
        fprintf(stderr, "usage: agent LIBRARY SAMPLES (%s)\n", count == 3 ? dlerror() : "arguments are missing");
        return 1;
    }
    int samples = atoi(arguments[2]);
    int (*init)(void) = find("nvmlInit_v2");
    int (*get_count)(unsigned *) = find("nvmlDeviceGetCount_v2");
    int (*by_index)(unsigned, device *) = find("nvmlDeviceGetHandleByIndex_v2");
    int (*get_utilization)(device, utilization *) = find("nvmlDeviceGetUtilizationRates");
    int (*get_memory)(device, memory *) = find("nvmlDeviceGetMemoryInfo_v2");
    int (*get_temperature)(device, unsigned, unsigned *) = find("nvmlDeviceGetTemperature");
    int (*get_power)(device, unsigned *) = find("nvmlDeviceGetPowerUsage");
    int (*get_clock)(device, unsigned, unsigned *) = find("nvmlDeviceGetClockInfo");
    int (*get_errors)(device, unsigned, unsigned, unsigned long long *) = find("nvmlDeviceGetTotalEccErrors");
    unsigned gpus = 0;
    device handles[MOST_GPUS];
    if (init() || get_count(&gpus) || gpus > MOST_GPUS) {
        fprintf(stderr, "NVML does not start\n");
        return 1;
    }
    for (unsigned gpu = 0; gpu < gpus; gpu++)
        by_index(gpu, &handles[gpu]);
    double began = 0;
    unsigned long long sum = 0;
    for (int sample = -WARM_UP; sample < samples; sample++) {
        if (sample == 0)
            began = cpu_us();
        for (unsigned gpu = 0; gpu < gpus; gpu++) {
            device handle = handles[gpu];
            utilization rates = {0};
            memory info = {.version = MEMORY_V2};
            unsigned celsius = 0, milliwatts = 0, sm = 0, mem = 0;
            unsigned long long corrected = 0, uncorrected = 0;
            get_utilization(handle, &rates);
            get_memory(handle, &info);
            get_temperature(handle, 0, &celsius);
            get_power(handle, &milliwatts);
            get_clock(handle, 1, &sm);
            get_clock(handle, 2, &mem);
            get_errors(handle, 0, 0, &corrected);
            get_errors(handle, 1, 0, &uncorrected);
            sum += rates.gpu + info.used + celsius + milliwatts + sm + mem + corrected + uncorrected;
        }
    }
    double each = (cpu_us() - began) / samples;
    printf("%.1f\n", each);
    return sum == 0;
}
