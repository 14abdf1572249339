/* cp_fork: the generation differs in parent and child, and only there. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cp_fork.h"
#include "cp_test.h"

/* Fork; the child's exit status is what `in_child` returns. */
static int
status_of_child(int (*in_child)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(in_child());
    CHECK(pid > 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint32_t before;

static int
distance(void)
{
    return (int)(cp_fork_generation() - before);
}

static int
distance_of_grandchild(void)
{
    return status_of_child(distance);
}

TEST(each_fork_counts_one_in_the_child)
{
    CHECK_EQ(cp_fork_watch(), 0);
    before = cp_fork_generation();
    CHECK_EQ(status_of_child(distance), 1);
    CHECK_EQ(status_of_child(distance), 1);
    CHECK_EQ(status_of_child(distance_of_grandchild), 2);
}

TEST(the_parent_does_not_change)
{
    CHECK_EQ(cp_fork_watch(), 0);
    uint32_t mine = cp_fork_generation();
    before = mine;
    (void)status_of_child(distance);
    CHECK_EQ(cp_fork_generation(), mine);
}

TEST(watching_twice_counts_once)
{
    CHECK_EQ(cp_fork_watch(), 0);
    CHECK_EQ(cp_fork_watch(), 0);
    before = cp_fork_generation();
    CHECK_EQ(status_of_child(distance), 1);
}

static void *
watch_run(void *argument)
{
    (void)argument;
    CHECK_EQ(cp_fork_watch(), 0);
    (void)cp_fork_generation();
    return NULL;
}

TEST(threads_may_ask_to_watch_together)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, watch_run, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    before = cp_fork_generation();
    CHECK_EQ(status_of_child(distance), 1);
}
