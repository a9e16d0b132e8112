/* Load an echo server over TCP or UDP in a closed loop and verify every byte that comes back.
 *
 * usage: load [--udp] --port P [--host A] [--connections N] [--size BYTES] [--depth N] [--seconds S]
 *             [--warm-up S] [--lines] [--reconnect] [--train] [--lost-after S]
 *
 * Each connection keeps `depth` messages in flight and sends the next when a reply is complete. The word "warm" on
 * standard error marks the start of the measured window; the result is one line of JSON on standard output. Any
 * byte that is missing, wrong, early or in the wrong place ends the run with exit status 1 and one line that says so.
 * Latency goes into a histogram of 64 steps for each power of two: an error of at most 1.6 %.
 */
#define _GNU_SOURCE
#include "load.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* A prime, so that no message size or read size is a multiple of the period and a shifted byte always shows. */
enum { PERIOD_BYTES = 65521 };
enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = 64 * STEPS };
static const double DRAIN_SECONDS = 2.0;

struct options options = {
    .host = "127.0.0.1",
    .connections = 64,
    .depth = 1,
    .size = 64,
    .seconds = 1.0,
    .warm_up_seconds = 0.2,
    .lost_after_seconds = 0.2,
};
struct run run;
static uint64_t histogram[BUCKETS];
static unsigned char noise[PERIOD_BYTES], letters[PERIOD_BYTES];

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void begin(void)
{
    run.now = clock_ns();
    run.measure_at = run.now + (uint64_t)(options.warm_up_seconds * 1e9);
}

/* Read the clock and move on to the phase that it is time for. */
void tick(void)
{
    run.now = clock_ns();
    if (!run.measuring && run.now >= run.measure_at) {
        run.measuring = true;
        if (write(STDERR_FILENO, "warm\n", 5) != 5)
            fail("standard error is closed");
        /* The reader of that word may share this core: the window starts when the write has returned. */
        run.now = clock_ns();
        run.stop_at = run.now + (uint64_t)(options.seconds * 1e9);
        run.give_up_at = run.stop_at + (uint64_t)(DRAIN_SECONDS * 1e9);
        run.measure_at = run.now;
    }
    if (run.measuring && run.now >= run.stop_at)
        run.stopping = true;
}

/* Wait for readiness no longer than to the next phase, and never over 10 ms, so that lost datagrams are noticed. */
int wait_milliseconds(void)
{
    uint64_t next = !run.measuring ? run.measure_at : !run.stopping ? run.stop_at : run.give_up_at;
    uint64_t left = next > run.now ? (next - run.now) / 1000000u + 1 : 0;
    return left > 10 ? 10 : (int)left;
}

static unsigned bucket_of(uint64_t value)
{
    if (value < STEPS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return (shift + 1) * STEPS + (unsigned)((value >> shift) - STEPS);
}

static double middle_of(unsigned bucket)
{
    if (bucket < STEPS)
        return bucket;
    unsigned shift = bucket / STEPS - 1;
    return ((double)(bucket % STEPS + STEPS) + 0.5) * (double)(1ull << shift);
}

void answered(uint64_t issued_at, size_t bytes)
{
    if (!run.measuring)
        return;
    run.answered++;
    if (run.stopping)
        return;
    run.messages++;
    run.bytes += bytes;
    histogram[bucket_of(run.now > issued_at ? run.now - issued_at : 0)]++;
}

static double percentile_us(double share)
{
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)run.messages);
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen > wanted || (seen == run.messages && seen > 0))
            return middle_of(bucket) / 1000.0;
    }
    return 0.0;
}

static void make_tables(void)
{
    uint64_t state = 0x9E3779B97F4A7C15u; /* any odd seed: it must only be the same in every run */
    for (int index = 0; index < PERIOD_BYTES; index++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise[index] = (unsigned char)(state >> 32);
        letters[index] = (unsigned char)('A' + (state >> 40) % 26);
    }
}

static void copy_out(const unsigned char *table, uint64_t start, unsigned char *out, size_t bytes)
{
    size_t at = start % PERIOD_BYTES;
    while (bytes > 0) {
        size_t part = PERIOD_BYTES - at < bytes ? PERIOD_BYTES - at : bytes;
        memcpy(out, table + at, part);
        out += part;
        bytes -= part;
        at = 0;
    }
}

void pattern(uint64_t start, unsigned char *out, size_t bytes)
{
    copy_out(noise, start, out, bytes);
}

void pattern_of_letters(uint64_t start, unsigned char *out, size_t bytes)
{
    copy_out(letters, start, out, bytes);
}

static void report(void)
{
    double seconds = (double)(run.stop_at - run.measure_at) / 1e9;
    printf("{\"tool\": \"load.c\", \"seconds\": %.6f, \"messages\": %llu, \"answered\": %llu, \"bytes\": %llu, ", seconds,
           (unsigned long long)run.messages, (unsigned long long)run.answered, (unsigned long long)run.bytes);
    printf("\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, ", percentile_us(0.5), percentile_us(0.99),
           percentile_us(0.999));
    printf("\"lost\": %llu, \"late\": %llu, \"reordered\": %llu, \"connects\": %llu}\n", (unsigned long long)run.lost,
           (unsigned long long)run.late, (unsigned long long)run.reordered, (unsigned long long)run.connects);
}

static _Noreturn void usage(const char *problem)
{
    fprintf(stderr, "load: %s (the head of load.c lists the options)\n", problem);
    exit(2);
}

static void read_options(int count, char **words)
{
    static const struct option known[] = {
        {"udp", no_argument, NULL, 'u'},           {"host", required_argument, NULL, 'h'},
        {"port", required_argument, NULL, 'p'},    {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},    {"depth", required_argument, NULL, 'd'},
        {"seconds", required_argument, NULL, 't'}, {"warm-up", required_argument, NULL, 'w'},
        {"lines", no_argument, NULL, 'l'},         {"reconnect", no_argument, NULL, 'r'},
        {"train", no_argument, NULL, 'g'},         {"lost-after", required_argument, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, words, "", known, NULL)) != -1;) {
        switch (option) {
        case 'u': options.udp = true; break;
        case 'h': options.host = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.size = strtoul(optarg, NULL, 10); break;
        case 'd': options.depth = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up_seconds = atof(optarg); break;
        case 'l': options.lines = true; break;
        case 'r': options.reconnect = true; break;
        case 'g': options.train = true; break;
        case 'a': options.lost_after_seconds = atof(optarg); break;
        default: usage("unknown option");
        }
    }
    if (optind != count)
        usage("unexpected argument");
    if (options.port < 1 || options.port > 65535)
        usage("--port must be 1 to 65535");
    if (options.connections < 1 || options.connections > MOST_CONNECTIONS)
        usage("--connections must be 1 to 20000");
    if (options.depth < 1 || options.depth > 1024)
        usage("--depth must be 1 to 1024");
    if (options.size < (options.lines ? 2 : 1) || options.size > (1u << 24))
        usage("--size must be 1 (with --lines 2) to 16777216");
    if (options.seconds <= 0 || options.seconds > 3600 || options.warm_up_seconds < 0 || options.warm_up_seconds > 3600)
        usage("--seconds must be above 0, --warm-up 0 or more, both at most 3600");
    if (options.reconnect && options.depth != 1)
        usage("--reconnect needs --depth 1");
}

int main(int count, char **words)
{
    struct rlimit files;
    read_options(count, words);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    make_tables();
    if (options.udp)
        load_udp();
    else
        load_tcp();
    report();
    return 0;
}
