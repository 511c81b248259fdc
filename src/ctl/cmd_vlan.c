/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ringway vlan`, in the words of bridge(8): which VLANs a port is a member of.
 */
#include <stdio.h>
#include <string.h>

#include "ctl/cli.h"
#include "ctl/client.h"
#include "dp/vlan.h"

static const char usage[] =
    "usage: ringway vlan add dev PORT vid VIDS [pvid] [untagged]\n"
    "       ringway vlan del dev PORT vid VIDS\n"
    "       ringway vlan show [dev PORT] [--json] [--watch]\n"
    "       (all with --rundir DIR)\n"
    "\n"
    "  vid VIDS   10, 10-20 or 10-20,30\n"
    "  pvid       untagged frames from PORT are in this VLAN\n"
    "  untagged   frames of these VLANs leave through PORT without a tag\n"
    "\n"
    "A port without VLANs of its own is in VLAN 1 (pvid untagged), and its bridge begins to filter\n"
    "with the first port that gets some: see ringway(1), VLANS.\n";

/* What stands behind add or del. */
struct words {
    const char *dev, *vid;
    bool pvid, untagged;
};

/* As with bridge(8) the words may come in any order. False after an error message. */
static bool read_words(struct words *w, bool add, int n, char **args)
{
    *w = (struct words){0};
    for (int i = 0; i < n; i++) {
        const char *word = args[i];
        const char **value = !strcmp(word, "dev") ? &w->dev : !strcmp(word, "vid") ? &w->vid : NULL;
        bool *flag = !add                        ? NULL
                     : !strcmp(word, "pvid")     ? &w->pvid
                     : !strcmp(word, "untagged") ? &w->untagged
                                                 : NULL;

        if (value && i + 1 < n && !*value) {
            *value = args[++i];
        } else if (flag) {
            *flag = true;
        } else {
            cli_usage("vlan %s: \"%.80s\" is %s", add ? "add" : "del", word,
                      value ? "given twice or without a value" : "not expected; see --help");
            return false;
        }
    }
    if (!w->dev || !w->vid) {
        cli_usage("vlan %s needs dev PORT and vid VIDS", add ? "add" : "del");
        return false;
    }
    return true;
}

static int change(const struct cli_opts *o, bool add, const struct words *w)
{
    json_t *params = json_pack("{s:s, s:s}", "port", w->dev, "vid", w->vid);
    struct err e = {0};
    struct client c;

    if (!params) {
        return cli_usage("an argument is not valid UTF-8");
    }
    if (add) {
        json_object_set_new(params, "pvid", json_boolean(w->pvid));
        json_object_set_new(params, "untagged", json_boolean(w->untagged));
    }
    if (client_open(&c, o->rundir, &e)) {
        json_decref(params);
        return cli_failed(&e);
    }
    int rc = client_call(&c, add ? "vlan.add" : "vlan.del", params, NULL, &e);

    client_close(&c);
    return rc ? cli_failed(&e) : 0;
}

/* `vlan show dev vm1 -j` is `show vlans vm1 -j`. */
static int show(int argc, char **argv, const char *verb)
{
    int n = 1;

    argv[0] = (char *)"show";
    for (int i = 1; i < argc; i++) {
        if (argv[i] == verb) {
            argv[n++] = (char *)"vlans";
        } else if (strcmp(argv[i], "dev")) {
            argv[n++] = argv[i];
        }
    }
    argv[n] = NULL;
    return cmd_show(n, argv);
}

int cmd_vlan(int argc, char **argv)
{
    static const struct cli_word verbs[] = {
        {"add", NULL, NULL, NULL},
        {"del", NULL, NULL, NULL},
        {"show", NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };
    const struct cli_word *verb;
    struct vlan_set vids;
    struct err e = {0};
    struct cli_opts o;
    struct words w;
    int status = cli_options(&o, argc, argv, CLI_JSON | CLI_WATCH, usage);

    if (status >= 0) {
        return status;
    }
    if (o.n_args < 1) {
        return cli_usage("vlan what? add, del or show");
    }
    verb = cli_find(verbs, o.args[0], "verb of vlan");
    if (!verb) {
        return CLI_USAGE;
    }
    if (verb == &verbs[2]) {
        return show(argc, argv, o.args[0]);
    }
    if (o.json || o.watch) {
        return cli_usage("vlan %s has no option --%s", verb->name, o.json ? "json" : "watch");
    }
    if (!read_words(&w, verb == &verbs[0], o.n_args - 1, o.args + 1)) {
        return CLI_USAGE;
    }
    if (vlan_set_parse(&vids, w.vid, &e) || vlan_set_empty(&vids)) {
        return cli_usage("vid %s", *e.text ? e.text : "names no VLAN");
    }
    return change(&o, verb == &verbs[0], &w);
}
