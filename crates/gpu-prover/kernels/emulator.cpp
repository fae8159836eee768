// A CUDA driver for machines without a device: the driver's functions over the host's memory, and the kernels compiled as C++17.
//
//   g++ -std=c++17 -O2 -shared -fPIC -o libemulated_cuda.so emulator.cpp
//
// A stream's work is done as late as may be: when somebody waits for it, the host or another stream. So what does not wait where it must, reads
// what is not written yet. Host memory that is page-locked is read and written then too, other memory before the call returns, as the driver does.
//
// A launch runs its blocks one after the other. Where a kernel has barriers, a block's threads are fibers: each runs until it ends or reaches
// __syncthreads, and goes on when all of them are there. A block in which some threads wait and others end is refused, as it would hang on a device.
//
// For tests: EMULATED_DEVICES is how many devices there are, EMULATED_MEMORY how many bytes each has; EMULATED_FAILURE=NAME=CODE makes the
// function of that name return that code. `emulator_fail` makes the n-th call from then on (from 1) do so (or hang), `emulator_calls` tells how many
// there were since, and `emulator_live` how many allocations, modules, streams and contexts are not released. `emulator_multiply` is the
// kernels' product.

#include "kernels.cu"

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

Place threadIdx, blockIdx, blockDim, gridDim;

namespace {

enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
};

const size_t STACK = 64 << 10;

std::mutex all;
long calls = 0;
long live = 0;
size_t used = 0;
// These are never destroyed: devices' threads may still close what they have while the process ends.
auto &allocations = *new std::map<void *, size_t>;
// Host memory that is page-locked: where it begins, and how long it is.
auto &locked = *new std::map<const char *, size_t>;

size_t number(const char *variable, size_t otherwise) {
    const char *text = getenv(variable);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

// Instead of a code: it never returns.
const int HANG = -1;

long failing_call = 0;
int failing_code = SUCCESS;

// Counts a call; the code that it is to fail with, or SUCCESS.
int call(const char *name) {
    if (++calls == failing_call) {
        while (failing_code == HANG) sleep(1);
        return failing_code;
    }
    const char *failure = getenv("EMULATED_FAILURE");
    const char *code = failure ? strchr(failure, '=') : nullptr;
    bool is_meant = code && strlen(name) == (size_t)(code - failure) && !strncmp(failure, name, strlen(name));
    return is_meant ? atoi(code + 1) : SUCCESS;
}

#define CALL                                \
    std::lock_guard<std::mutex> guard(all); \
    if (int code = call(__func__)) return code;

// What releases something does so also when it reports a failure, which then is an earlier call's.
#define RELEASE(what)                       \
    std::lock_guard<std::mutex> guard(all); \
    int code = call(__func__);              \
    int released = (what);                  \
    return code ? code : released;

// Contexts begin fibers; from then on jumps change between them, which cost no call of the system.
struct Fiber {
    ucontext_t begin;
    jmp_buf here;
    void *stack = malloc(STACK);
    bool has_begun = false;
    bool waits;
    bool ended;
};

// As many as the largest block so far has threads. They never end: each runs one thread after the other.
auto &fibers = *new std::deque<Fiber>;

jmp_buf scheduler;
Fiber *running = nullptr;
// A thread of the kernel that runs.
const std::function<void()> *body = nullptr;

// Back to whoever runs the block.
void give_way() {
    Fiber *own = running;
    if (!_setjmp(own->here)) _longjmp(scheduler, 1);
}

void run_threads() {
    for (;;) {
        (*body)();
        running->ended = true;
        give_way();
    }
}

// Until it gives way.
void run(Fiber &fiber) {
    running = &fiber;
    if (!_setjmp(scheduler)) {
        if (fiber.has_begun) _longjmp(fiber.here, 1);
        fiber.has_begun = true;
        setcontext(&fiber.begin);
    }
    running = nullptr;
}

Place place_of_thread(size_t i) {
    return {(uint32_t)(i % blockDim.x), (uint32_t)(i / blockDim.x % blockDim.y), (uint32_t)(i / blockDim.x / blockDim.y)};
}

void run_block_without_barriers() {
    size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    for (size_t i = 0; i < threads; i++) {
        threadIdx = place_of_thread(i);
        (*body)();
    }
}

// False when some threads wait for others that have ended.
bool run_block() {
    size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    while (fibers.size() < threads) {
        Fiber &fiber = fibers.emplace_back();
        getcontext(&fiber.begin);
        fiber.begin.uc_stack.ss_sp = fiber.stack;
        fiber.begin.uc_stack.ss_size = STACK;
        fiber.begin.uc_link = nullptr;
        makecontext(&fiber.begin, run_threads, 0);
    }
    for (size_t i = 0; i < threads; i++) fibers[i].ended = false;
    bool is_upwards = blockIdx.x % 2 == 0;
    for (;;) {
        size_t waiting = 0, ended = 0;
        for (size_t k = 0; k < threads; k++) {
            // Up and down in turn: what leans on the order instead of a barrier is wrong in one of them.
            size_t i = is_upwards ? k : threads - 1 - k;
            Fiber &fiber = fibers[i];
            if (!fiber.ended) {
                threadIdx = place_of_thread(i);
                fiber.waits = false;
                run(fiber);
            }
            waiting += fiber.waits;
            ended += fiber.ended;
        }
        is_upwards = !is_upwards;
        if (ended == threads) return true;
        if (waiting != threads) {
            // Those that wait are never to go on.
            fibers.clear();
            return false;
        }
    }
}

template <typename... A, size_t... I>
std::function<void()> thread_of(void (*kernel)(A...), void **values, std::index_sequence<I...>) {
    return [kernel, given = std::make_tuple(*(A *)values[I]...)] { std::apply(kernel, given); };
}

template <typename... A>
std::function<void()> thread_of(void (*kernel)(A...), void **values) {
    return thread_of(kernel, values, std::index_sequence_for<A...>());
}

struct Kernel {
    const char *name;
    std::function<void()> (*thread)(void **);
    // Whether its threads wait for each other. Those of others run one after the other, without fibers.
    bool has_barriers;
};

#define KERNEL(name) \
    { #name, [](void **values) { return thread_of(name, values); }, false }
#define KERNEL_WITH_BARRIERS(name) \
    { #name, [](void **values) { return thread_of(name, values); }, true }

// Every kernel of kernels.cu; a test compares.
const Kernel KERNELS[] = {
    KERNEL(hash_leaves), KERNEL(hash_nodes), KERNEL_WITH_BARRIERS(transform_pass), KERNEL(spread_over_cosets),
    KERNEL(constraints), KERNEL(join_cosets), KERNEL(permutation_quotients), KERNEL(permutation_columns),
    KERNEL_WITH_BARRIERS(scan_blocks), KERNEL(scan_apply), KERNEL(powers_of_point), KERNEL_WITH_BARRIERS(evaluate),
    KERNEL(combine), KERNEL(fold), KERNEL(divide_opening), KERNEL(hash_codeword), KERNEL(work), KERNEL(gather),
};

const int DEVICES_MAX = 16;

// Whose context is at hand.
thread_local int current = 0;

struct Stream : std::enable_shared_from_this<Stream> {
    int device = current;
    std::deque<std::function<int()>> work;
    long asked = 0, done = 0;
};

// How far a stream was when the event was recorded. It may outlive the stream.
struct Event {
    std::shared_ptr<Stream> stream;
    long at = 0;
};

auto &streams = *new std::vector<std::shared_ptr<Stream>>;
// What some work of a device failed with: from then on every wait for it does.
int broken[DEVICES_MAX];

int ask(Stream *stream, std::function<int()> work) {
    stream->work.push_back(std::move(work));
    stream->asked++;
    return SUCCESS;
}

int wait(Stream *stream, long until) {
    while (stream->done < until && !stream->work.empty()) {
        std::function<int()> work = std::move(stream->work.front());
        stream->work.pop_front();
        stream->done++;
        int &code = broken[stream->device];
        if (!code) code = work();
    }
    return broken[stream->device];
}

// As all that is asked of no stream does.
int wait_for_all() {
    for (auto &stream : streams)
        if (stream->device == current) wait(stream.get(), stream->asked);
    return broken[current];
}

int end(Stream *stream) {
    wait(stream, stream->asked);
    for (size_t i = streams.size(); i-- > 0;)
        if (streams[i].get() == stream) streams.erase(streams.begin() + (long)i);
    live--;
    return SUCCESS;
}

int unlock(void *begin) {
    wait_for_all();
    if (!locked.erase((const char *)begin)) return INVALID_VALUE;
    live--;
    return SUCCESS;
}

bool is_locked(const char *begin, size_t bytes) {
    auto after = locked.upper_bound(begin);
    if (after == locked.begin()) return false;
    auto [place, length] = *--after;
    return begin + bytes <= place + length;
}

int run_kernel(const Kernel *kernel, Place grid, Place block, const std::function<void()> &thread) {
    gridDim = grid;
    blockDim = block;
    body = &thread;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                if (!kernel->has_barriers)
                    run_block_without_barriers();
                else if (!run_block())
                    return LAUNCH_FAILED;
    return SUCCESS;
}

int allocate(void **place, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (used + bytes > number("EMULATED_MEMORY", (size_t)1 << 30)) return OUT_OF_MEMORY;
    *place = malloc(bytes);
    // What is not written is not zero on a device either.
    memset(*place, 0xa5, bytes);
    allocations[*place] = bytes;
    used += bytes;
    live++;
    return SUCCESS;
}

int release(void *place) {
    wait_for_all();
    auto found = allocations.find(place);
    if (found == allocations.end()) return INVALID_VALUE;
    used -= found->second;
    allocations.erase(found);
    free(place);
    live--;
    return SUCCESS;
}

}  // namespace

void __syncthreads() {
    if (!running) {
        fprintf(stderr, "a kernel that KERNELS has without barriers has one\n");
        abort();
    }
    running->waits = true;
    give_way();
}

extern "C" {

long emulator_calls() { return calls; }
void emulator_fail(long at, int code) {
    calls = 0;
    failing_call = at;
    failing_code = code;
}
long emulator_live() { return live; }
u64 emulator_multiply(u64 a, u64 b) { return canonical(multiply(a, b)); }

int cuInit(unsigned) {
    CALL;
    return number("EMULATED_DEVICES", 1) ? SUCCESS : NO_DEVICE;
}

int cuDriverGetVersion(int *version) {
    CALL;
    *version = 12000;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    CALL;
    *count = (int)number("EMULATED_DEVICES", 1);
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    CALL;
    if (ordinal < 0 || ordinal >= DEVICES_MAX || (size_t)ordinal >= number("EMULATED_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device) {
    CALL;
    snprintf(name, (size_t)length, "emulated device %d", device);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int) {
    CALL;
    *bytes = number("EMULATED_MEMORY", (size_t)1 << 30);
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int) {
    CALL;
    switch (attribute) {
        case 75: *value = 9; break;          // the compute capability
        case 16: *value = 1; break;          // multiprocessors
        case 13: *value = 1000000; break;    // clock, in kHz
        case 36: *value = 500000; break;     // the memory's
        case 37: *value = 64; break;         // and the width of its bus, in bits
        default: *value = 0;
    }
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    CALL;
    *context = (void *)(uintptr_t)(device + 1);
    live++;
    return SUCCESS;
}

// Another context begins anew.
int cuDevicePrimaryCtxRelease_v2(int device) { RELEASE((live--, broken[device] = SUCCESS)) }

int cuDevicePrimaryCtxSetFlags_v2(int, unsigned) {
    CALL;
    return SUCCESS;
}

int cuCtxSetCurrent(void *context) {
    CALL;
    if (context) current = (int)(uintptr_t)context - 1;
    return SUCCESS;
}

int cuCtxSynchronize() {
    CALL;
    return wait_for_all();
}

int cuModuleLoadDataEx(void **module, const void *, unsigned, int *, void **) {
    CALL;
    *module = (void *)KERNELS;
    live++;
    return SUCCESS;
}

int cuModuleUnload(void *) { RELEASE((live--, SUCCESS)) }

int cuModuleGetFunction(const void **function, void *, const char *name) {
    CALL;
    for (const Kernel &kernel : KERNELS) {
        if (strcmp(kernel.name, name) == 0) {
            *function = &kernel;
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int cuStreamCreateWithPriority(Stream **stream, unsigned, int) {
    CALL;
    *stream = streams.emplace_back(std::make_shared<Stream>()).get();
    live++;
    return SUCCESS;
}

int cuStreamDestroy_v2(Stream *stream) { RELEASE(end(stream)) }

int cuStreamSynchronize(Stream *stream) {
    CALL;
    return wait(stream, stream->asked);
}

int cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    CALL;
    // The event may be gone by then.
    return ask(stream, [then = *event] { return then.stream ? wait(then.stream.get(), then.at) : (int)SUCCESS; });
}

int cuEventCreate(Event **event, unsigned) {
    CALL;
    *event = new Event;
    live++;
    return SUCCESS;
}

int cuEventDestroy_v2(Event *event) { RELEASE((delete event, live--, SUCCESS)) }

int cuEventRecord(Event *event, Stream *stream) {
    CALL;
    *event = {stream->shared_from_this(), stream->asked};
    return SUCCESS;
}

int cuEventSynchronize(Event *event) {
    CALL;
    return event->stream ? wait(event->stream.get(), event->at) : (int)SUCCESS;
}

int cuMemHostRegister_v2(void *begin, size_t bytes, unsigned) {
    CALL;
    if (!locked.emplace((const char *)begin, bytes).second) return INVALID_VALUE;
    live++;
    return SUCCESS;
}

int cuMemHostUnregister(void *begin) { RELEASE(unlock(begin)) }

int cuMemAlloc_v2(void **place, size_t bytes) {
    CALL;
    return allocate(place, bytes);
}

int cuMemFree_v2(void *place) { RELEASE(release(place)) }

int cuMemcpyHtoDAsync_v2(void *to, const char *from, size_t bytes, Stream *stream) {
    CALL;
    if (is_locked(from, bytes)) return ask(stream, [=] { return memcpy(to, from, bytes), (int)SUCCESS; });
    std::vector<char> kept(from, from + bytes);
    return ask(stream, [to, kept = std::move(kept)] { return memcpy(to, kept.data(), kept.size()), (int)SUCCESS; });
}

int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
    CALL;
    ask(stream, [=] { return memcpy(to, from, bytes), (int)SUCCESS; });
    return is_locked((const char *)to, bytes) ? (int)SUCCESS : wait(stream, stream->asked);
}

int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
    CALL;
    return ask(stream, [=] { return memcpy(to, from, bytes), (int)SUCCESS; });
}

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    CALL;
    *total = number("EMULATED_MEMORY", (size_t)1 << 30);
    *available = *total - used;
    return SUCCESS;
}

int cuLaunchKernel(const Kernel *kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned, Stream *stream, void **values, void **) {
    CALL;
    if (!grid_x || !grid_y || !grid_z || (size_t)block_x * block_y * block_z - 1 >= 1024) return INVALID_VALUE;
    Place grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
    return ask(stream, [=, thread = kernel->thread(values)] { return run_kernel(kernel, grid, block, thread); });
}
}
