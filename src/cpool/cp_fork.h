/* The fork generation: a word that differs in parent and child. Layer 0.
 *
 * A child handler of pthread_atfork() bumps it, so "have I been forked?" costs
 * one load instead of a getpid(), and it also sees forks that Python does not.
 */
#ifndef CP_FORK_H
#define CP_FORK_H

#include <stdint.h>

/* Install the handler, once per process; later calls do nothing. 0 or errno. */
int cp_fork_watch(void);

/* How often this process and its ancestors have been forked since then. */
uint32_t cp_fork_generation(void);

#endif
