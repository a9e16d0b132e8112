/* Share options, clock, pattern, counters and histogram between the TCP and the UDP half of the generator. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCRATCH_BYTES = 262144, MOST_CONNECTIONS = 20000, MOST_EVENTS = 256 };

struct options {
    const char *host;
    int port, connections, depth;
    size_t size;
    double seconds, warm_up_seconds, lost_after_seconds;
    bool udp, lines, reconnect, train;
};

/* Times are nanoseconds of CLOCK_MONOTONIC. `messages` and `bytes` are those of the measured window; `answered` goes
 * on until the last outstanding reply, which is what the server's CPU time has to be divided by. */
struct run {
    uint64_t now, measure_at, stop_at, give_up_at;
    bool measuring, stopping;
    uint64_t messages, bytes, answered, lost, late, reordered, connects;
};

extern struct options options;
extern struct run run;

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void begin(void);
void tick(void);
int wait_milliseconds(void);
void answered(uint64_t issued_at, size_t bytes);
void pattern(uint64_t start, unsigned char *out, size_t bytes);
void pattern_of_letters(uint64_t start, unsigned char *out, size_t bytes);

void load_tcp(void);
void load_udp(void);

#endif
