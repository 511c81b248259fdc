/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/cli.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"

int cli_usage(const char *fmt, ...)
{
    va_list ap;

    fputs("ringway: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return CLI_USAGE;
}

int cli_failed(const struct err *e)
{
    fprintf(stderr, "ringway: %s\n", e->text);
    return CLI_FAILED;
}

const struct cli_word *cli_find(const struct cli_word *words, const char *arg, const char *what)
{
    const struct cli_word *found = NULL;
    const char *names[32] = {0};
    char list[256] = "";
    size_t n = 0, n_match = 0;

    for (const struct cli_word *w = words; w->name && n < ARRAY_SIZE(names); w++) {
        if (!strcmp(w->name, arg)) {
            return w;
        }
        names[n++] = w->name;
        if (*arg && !strncmp(w->name, arg, strlen(arg))) {
            size_t used = strlen(list);

            snprintf(list + used, sizeof(list) - used, "%s%s", n_match ? ", " : "", w->name);
            found = w;
            n_match++;
        }
    }
    if (n_match == 1) {
        return found;
    }
    if (n_match > 1) {
        cli_usage("%s \"%s\" is ambiguous: %s", what, arg, list);
        return NULL;
    }

    const char *near = nearest(arg, names, n);

    if (near) {
        cli_usage("unknown %s \"%.80s\"; did you mean \"%s\"?", what, arg, near);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(list);

        snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", names[i]);
    }
    cli_usage("unknown %s \"%.80s\"; there are: %s", what, arg, list);
    return NULL;
}

int cli_bad_option(int argc, char **argv, int missing, const char *const *known, size_t n)
{
    const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
    char name[64];

    if (missing) {
        return cli_usage("option %s needs a value; see --help", word);
    }
    if (strncmp(word, "--", 2)) {
        /* getopt has not moved past a bundle like -xyz yet when it is not at its end */
        return cli_usage("unknown option -%c; see --help", optopt);
    }
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);

    const char *near = nearest(name, known, n);

    return near ? cli_usage("unknown or ambiguous option \"--%s\"; did you mean \"--%s\"?", name,
                            near)
                : cli_usage("unknown option \"--%s\"; see --help", name);
}

int cli_options(struct cli_opts *o, int argc, char **argv, unsigned allow, const char *usage)
{
    static const struct option all[] = {
        {"rundir", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {"json", no_argument, NULL, 'j'},
        {"watch", no_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    const char *known[] = {"rundir", "help", "json", "watch"};
    int c;

    *o = (struct cli_opts){0};
    opterr = 0;
    optind = 0; /* glibc: start anew */
    while ((c = getopt_long(argc, argv, ":hjw", all, NULL)) != -1) {
        if ((c == 'j' && !(allow & CLI_JSON)) || (c == 'w' && !(allow & CLI_WATCH))) {
            return cli_usage("this command has no option --%s; see --help",
                             c == 'j' ? "json" : "watch");
        }
        switch (c) {
        case 'r':
            o->rundir = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'w':
            o->watch = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            return cli_bad_option(argc, argv, c == ':', known, ARRAY_SIZE(known));
        }
    }
    o->n_args = argc - optind;
    o->args = argv + optind;
    return -1;
}
