/* Count what CPython asks its allocators for.
 *
 * Wraps the allocators of the domains PYMEM_DOMAIN_MEM and PYMEM_DOMAIN_OBJ;
 * source: the C API's "Customize Memory Allocators". Loaded by ctypes.PyDLL,
 * so the interpreter's lock guards the counter. Nothing is ever unwrapped
 * while blocks are out: begin and end only switch the counting.
 */
#include <stddef.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *block, size_t size);
    void (*free)(void *ctx, void *block);
} Allocator;

extern void PyMem_GetAllocator(int domain, Allocator *allocator);
extern void PyMem_SetAllocator(int domain, Allocator *allocator);

static Allocator originals[2];
static int installed, counting;
static long allocations;

static void *count_malloc(void *ctx, size_t size) {
    Allocator *original = ctx;
    allocations += counting;
    return original->malloc(original->ctx, size);
}

static void *count_calloc(void *ctx, size_t count, size_t size) {
    Allocator *original = ctx;
    allocations += counting;
    return original->calloc(original->ctx, count, size);
}

static void *pass_realloc(void *ctx, void *block, size_t size) {
    Allocator *original = ctx;
    allocations += counting && block == NULL;
    return original->realloc(original->ctx, block, size);
}

static void pass_free(void *ctx, void *block) {
    Allocator *original = ctx;
    original->free(original->ctx, block);
}

void begin_counting(void) {
    for (int index = 0; !installed && index < 2; index++) {
        Allocator wrapper = {&originals[index], count_malloc, count_calloc, pass_realloc, pass_free};
        PyMem_GetAllocator(index + 1, &originals[index]);
        PyMem_SetAllocator(index + 1, &wrapper);
    }
    installed = 1;
    allocations = 0;
    counting = 1;
}

long end_counting(void) {
    counting = 0;
    return allocations;
}
