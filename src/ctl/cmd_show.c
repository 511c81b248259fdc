/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ringway show`: ask the switch, then print the answer as it came (--json) or for people.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/cli.h"
#include "ctl/client.h"
#include "ctl/conf.h"
#include "ctl/table.h"

static const char usage[] =
    "usage: ringway show ports|macs|vlans|workers|drops|bridges|config [NAME] [--json]\n"
    "                    [--watch] [--rundir DIR]\n"
    "\n"
    "  ports [PORT]     state and rates; with PORT also features, queues and drops\n"
    "  macs [PORT]      which address is behind which port\n"
    "  vlans [PORT]     which VLANs each port is a member of\n"
    "  workers [ID]     load of each worker and the queues it polls\n"
    "  drops [PORT]     frames that did not arrive: why, and whose fault it was\n"
    "  bridges [NAME]   bridges and their settings\n"
    "  config [PORT]    the running state as a file for `ringway run -c`\n"
    "\n"
    "  -j, --json       the same as JSON (with --watch one line per second)\n"
    "  -w, --watch      again every second, until Ctrl-C\n"
    "      --rundir DIR the switch's run directory\n"
    "Rates are per second, measured by the switch over the last second. Words may be shortened.\n";

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "-";
}

static double num(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static long long integer(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

/* --- ports -------------------------------------------------------------------------------- */

static const char *port_state(const json_t *p)
{
    const char *s = json_string_value(json_object_get(json_object_get(p, "state"), "state"));

    return s ? s : json_is_true(json_object_get(p, "ready")) ? "up" : "down";
}

static void ports_table(FILE *f, const json_t *list)
{
    static const char *const head[] = {"PORT",       "KIND",       "BRIDGE",  "STATE",
                                       "-RX-PPS",    "-RX-BIT/S",  "-TX-PPS", "-TX-BIT/S",
                                       "-RX-FRAMES", "-TX-FRAMES", "-DROPS",  "-MACS"};
    struct table t;
    size_t i;
    json_t *p;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (list, i, p) {
        const json_t *rx = json_object_get(p, "rx"), *tx = json_object_get(p, "tx");

        table_add(&t, "%s", str(p, "name"));
        table_add(&t, "%s", str(p, "kind"));
        table_add(&t, "%s", str(p, "bridge"));
        table_add(&t, "%s%s", port_state(p),
                  json_is_true(json_object_get(p, "isolated")) ? ",isolated" : "");
        table_add(&t, "%s", si(num(rx, "pps")));
        table_add(&t, "%s", si(num(rx, "bps")));
        table_add(&t, "%s", si(num(tx, "pps")));
        table_add(&t, "%s", si(num(tx, "bps")));
        table_add(&t, "%lld", integer(rx, "frames"));
        table_add(&t, "%lld", integer(tx, "frames"));
        table_add(&t, "%lld", integer(p, "drops"));
        table_add(&t, "%lld", integer(json_object_get(p, "macs"), "learnt"));
    }
    table_print(&t, f);
}

static void put_value(FILE *f, const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_STRING:
        fputs(*json_string_value(v) ? json_string_value(v) : "-", f);
        break;
    case JSON_INTEGER:
        fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        break;
    case JSON_REAL:
        fputs(si(json_real_value(v)), f);
        break;
    case JSON_TRUE:
        fputs("yes", f);
        break;
    case JSON_FALSE:
        fputs("no", f);
        break;
    default:
        fputc('-', f);
        break;
    }
}

/* Words in lines of at most about 100 columns. */
static void put_words(FILE *f, const json_t *list, int indent)
{
    int col = indent;
    size_t i;
    json_t *v;

    json_array_foreach (list, i, v) {
        const char *word = json_string_value(v);
        int len = word ? (int)strlen(word) : 0;

        if (i && col + len > 98) {
            fprintf(f, "\n%*s", indent, "");
            col = indent;
        }
        fprintf(f, "%s%s", i && col > indent ? " " : "", word ? word : "");
        col += len + 1;
    }
    fputs(json_array_size(list) ? "\n" : "none\n", f);
}

/* A list of objects with the same members: one row each. */
static void put_rows(FILE *f, const json_t *list)
{
    const char *head[TABLE_COLS], *key;
    unsigned n = 0;
    struct table t;
    size_t i;
    json_t *row, *v;

    /* An object may lack members that a later one has: columns are those of any. */
    json_array_foreach (list, i, row) {
        json_object_foreach (row, key, v) {
            unsigned k = 0;

            while (k < n && strcmp(head[k], key)) {
                k++;
            }
            if (k == n && n < TABLE_COLS) {
                head[n++] = key;
            }
        }
    }
    table_init(&t, n, head);
    json_array_foreach (list, i, row) {
        for (unsigned k = 0; k < n; k++) {
            char *text = NULL;
            size_t len;
            FILE *m = open_memstream(&text, &len);

            if (!m) {
                return;
            }
            v = json_object_get(row, head[k]);
            if (v) {
                put_value(m, v);
            } else {
                fputc('-', m);
            }
            fclose(m);
            table_add(&t, "%s", text);
            free(text);
        }
    }
    table_print(&t, f);
}

static void put_member(FILE *f, const char *key, const json_t *v)
{
    if (!json_is_array(v)) {
        fprintf(f, "  %-20s ", key);
        put_value(f, v);
        fputc('\n', f);
    } else if (!json_is_object(json_array_get(v, 0))) {
        fprintf(f, "  %-20s ", key);
        put_words(f, v, 23);
    } else {
        fprintf(f, "%s:\n", key);
        put_rows(f, v);
    }
}

static void direction(FILE *f, const char *what, const json_t *d)
{
    fprintf(f, "  %-20s %lld frames, %lld bytes; now %s/s, %sbit/s\n", what, integer(d, "frames"),
            integer(d, "bytes"), si(num(d, "pps")), si(num(d, "bps")));
}

static void port_detail(FILE *f, const json_t *p)
{
    const json_t *macs = json_object_get(p, "macs");
    const char *key;
    json_t *v;

    fprintf(f, "%s: %s port of bridge %s, %s%s\n", str(p, "name"), str(p, "kind"), str(p, "bridge"),
            port_state(p), json_is_true(json_object_get(p, "isolated")) ? ", isolated" : "");
    direction(f, "into the switch (rx)", json_object_get(p, "rx"));
    direction(f, "out of it (tx)", json_object_get(p, "tx"));
    fprintf(f, "  %-20s %lld learnt, %lld at most, %lld refused\n", "addresses",
            integer(macs, "learnt"), integer(macs, "limit"), integer(macs, "refused"));
    fprintf(f, "  %-20s %lld bytes\n", "largest frame", integer(p, "max_frame"));
    fprintf(f, "  %-20s %lld\n", "captures", integer(p, "captures"));
    json_object_foreach (json_object_get(p, "options"), key, v) {
        fprintf(f, "  %-20s %s\n", key, json_string_value(v));
    }
    json_object_foreach (json_object_get(p, "state"), key, v) {
        if (strcmp(key, "state")) {
            put_member(f, key, v);
        }
    }
}

static void drops_table(FILE *f, const json_t *list)
{
    static const char *const head[] = {"PORT", "REASON", "-FRAMES", "-NOW/S", "WHY"};
    struct table t;
    size_t i;
    json_t *d;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (list, i, d) {
        table_add(&t, "%s", str(d, "port"));
        table_add(&t, "%s", str(d, "reason"));
        table_add(&t, "%lld", integer(d, "frames"));
        table_add(&t, "%s", si(num(d, "pps")));
        table_add(&t, "%s", str(d, "text"));
    }
    table_print(&t, f);
}

/* --- the things that can be shown ---------------------------------------------------------- */

/* Each asks for the JSON that --json prints (get), and prints the same for people (print). */

static json_t *by_name(const char *key, const char *name)
{
    return name ? json_pack("{s:s}", key, name) : json_object();
}

/* Keep only the element of a list whose member key is name. */
static int pick(json_t *result, const char *list, const char *key, const char *name, struct err *e)
{
    json_t *all = json_object_get(result, list);

    for (size_t i = 0; name && i < json_array_size(all);) {
        const json_t *v = json_object_get(json_array_get(all, i), key);
        char number[24];
        const char *text = json_string_value(v);

        if (json_is_integer(v)) {
            snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
            text = number;
        }
        if (text && !strcmp(text, name)) {
            i++;
        } else {
            json_array_remove(all, i);
        }
    }
    if (name && !json_array_size(all)) {
        return err_set(e, -ENOENT, "there is no %s among the %s", name, list);
    }
    return 0;
}

static int get_ports(struct client *c, const char *name, json_t **out, struct err *e)
{
    json_t *drops = NULL;
    int rc = client_call(c, "ports.list", by_name("name", name), out, e);

    if (!rc && name) {
        rc = client_call(c, "drops.list", by_name("port", name), &drops, e);
        if (rc) {
            json_decref(*out);
            return rc;
        }
        json_object_set(json_array_get(json_object_get(*out, "ports"), 0), "drops_by_reason",
                        json_object_get(drops, "drops"));
        json_decref(drops);
    }
    return rc;
}

static void print_ports(FILE *f, const json_t *r, const char *name)
{
    const json_t *list = json_object_get(r, "ports");

    if (!name) {
        ports_table(f, list);
        return;
    }

    const json_t *p = json_array_get(list, 0), *drops = json_object_get(p, "drops_by_reason");

    port_detail(f, p);
    if (json_array_size(drops)) {
        fputs("drops:\n", f);
        drops_table(f, drops);
    } else {
        fprintf(f, "  %-20s none\n", "drops");
    }
}

/* All pages of the table as one answer. */
static int get_macs(struct client *c, const char *name, json_t **out, struct err *e)
{
    json_t *all = json_array(), *r = NULL;
    json_int_t from = 0;

    for (;;) {
        json_t *params = by_name("port", name);
        int rc;

        json_object_set_new(params, "from", json_integer(from));
        rc = client_call(c, "macs.list", params, &r, e);
        if (rc) {
            json_decref(all);
            return rc;
        }
        json_array_extend(all, json_object_get(r, "macs"));
        if (!json_is_integer(json_object_get(r, "next"))) {
            break;
        }
        from = integer(r, "next");
        json_decref(r);
    }
    json_object_del(r, "next");
    json_object_set_new(r, "macs", all);
    *out = r;
    return 0;
}

static void print_macs(FILE *f, const json_t *r, const char *name)
{
    static const char *const head[] = {"ADDRESS", "BRIDGE", "-VLAN", "PORT", "-AGE"};
    struct table t;
    size_t i;
    json_t *m;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (json_object_get(r, "macs"), i, m) {
        table_add(&t, "%s", str(m, "mac"));
        table_add(&t, "%s", str(m, "bridge"));
        if (integer(m, "vlan")) {
            table_add(&t, "%lld", integer(m, "vlan"));
        } else {
            table_add(&t, "-");
        }
        table_add(&t, "%s", str(m, "port"));
        if (json_is_true(json_object_get(m, "static"))) {
            table_add(&t, "static");
        } else {
            table_add(&t, "%llds", integer(m, "age"));
        }
    }
    table_print(&t, f);
    fprintf(f, "%lld of %lld entries used\n", integer(r, "total"), integer(r, "size"));
}

static int get_vlans(struct client *c, const char *name, json_t **out, struct err *e)
{
    return client_call(c, "vlans.list", by_name("port", name), out, e);
}

/* "PVID Egress Untagged": the flags as bridge(8) prints them. */
static const char *vlan_flags(const json_t *v)
{
    bool pvid = json_is_true(json_object_get(v, "pvid"));

    if (json_is_true(json_object_get(v, "untagged"))) {
        return pvid ? "PVID Egress Untagged" : "Egress Untagged";
    }
    return pvid ? "PVID" : "";
}

static void print_vlans(FILE *f, const json_t *r, const char *name)
{
    static const char *const head[] = {"PORT", "BRIDGE", "PROTOCOL", "VLAN", "FLAGS"};
    struct table t;
    size_t i, k;
    json_t *p, *v;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (json_object_get(r, "ports"), i, p) {
        const json_t *list = json_object_get(p, "vlans");
        bool filters = json_is_true(json_object_get(p, "filtering"));

        for (k = 0; k < MAX(json_array_size(list), 1u); k++) {
            v = json_array_get(list, k);
            table_add(&t, "%s", k ? "" : str(p, "port"));
            table_add(&t, "%s", k ? "" : str(p, "bridge"));
            table_add(&t, "%s", k ? "" : filters ? str(p, "protocol") : "-");
            if (!v) {
                table_add(&t, filters ? "none" : "any");
            } else if (json_object_get(v, "vlan_end")) {
                table_add(&t, "%lld-%lld", integer(v, "vlan"), integer(v, "vlan_end"));
            } else {
                table_add(&t, "%lld", integer(v, "vlan"));
            }
            table_add(&t, "%s", v ? vlan_flags(v) : filters ? "" : "(its bridge does not filter)");
        }
    }
    table_print(&t, f);
}

static int get_workers(struct client *c, const char *name, json_t **out, struct err *e)
{
    int rc = client_call(c, "workers.list", NULL, out, e);

    rc = rc ? rc : pick(*out, "workers", "id", name, e);
    return rc;
}

static void print_workers(FILE *f, const json_t *r, const char *name)
{
    static const char *const head[] = {"-WORKER",    "-CPU",      "STATE", "-BUSY",
                                       "-POLLING",   "-SLEEPING", "-PPS",  "-SLEEPS/S",
                                       "-SIGNALS/S", "-FRAMES",   "QUEUES"};
    struct table t;
    size_t i, k;
    json_t *w, *q;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (json_object_get(r, "workers"), i, w) {
        char queues[8192] = "";
        const json_t *cpu = json_object_get(w, "cpu");

        json_array_foreach (json_object_get(w, "queues"), k, q) {
            size_t used = strlen(queues);

            snprintf(queues + used, sizeof(queues) - used, "%s%s/%lld %.0f%%%s", k ? ", " : "",
                     str(q, "port"), integer(q, "queue"), num(q, "load") * 100,
                     json_is_true(json_object_get(q, "pinned")) ? " pinned" : "");
        }
        table_add(&t, "%lld", integer(w, "id"));
        table_add(&t, json_is_integer(cpu) ? "%lld" : "any", (long long)json_integer_value(cpu));
        table_add(&t, "%s", json_is_true(json_object_get(w, "asleep")) ? "asleep" : "awake");
        table_add(&t, "%.1f%%", num(w, "busy") * 100);
        table_add(&t, "%.1f%%", num(w, "polling") * 100);
        table_add(&t, "%.1f%%", num(w, "sleeping") * 100);
        table_add(&t, "%s", si(num(w, "pps")));
        table_add(&t, "%s", si(num(w, "sleeps_per_s")));
        table_add(&t, "%s", si(num(w, "signals_per_s")));
        table_add(&t, "%lld", integer(w, "frames"));
        table_add(&t, "%s", *queues ? queues : "-");
    }
    table_print(&t, f);
}

static int get_drops(struct client *c, const char *name, json_t **out, struct err *e)
{
    return client_call(c, "drops.list", by_name("port", name), out, e);
}

static void print_drops(FILE *f, const json_t *r, const char *name)
{
    const json_t *list = json_object_get(r, "drops");

    if (json_array_size(list)) {
        drops_table(f, list);
    } else {
        fprintf(f, "no frame was dropped%s%s\n", name ? " on account of " : "", name ? name : "");
    }
}

static int get_bridges(struct client *c, const char *name, json_t **out, struct err *e)
{
    int rc = client_call(c, "bridges.list", NULL, out, e);

    return rc ? rc : pick(*out, "bridges", "name", name, e);
}

static void print_bridges(FILE *f, const json_t *r, const char *name)
{
    static const char *const head[] = {"BRIDGE",         "-PORTS",        "-AGE",         "FORWARD-RESERVED",
                                       "VLAN-FILTERING", "VLAN-PROTOCOL", "-DEFAULT-PVID"};
    struct table t;
    size_t i;
    json_t *b;

    table_init(&t, ARRAY_SIZE(head), head);
    json_array_foreach (json_object_get(r, "bridges"), i, b) {
        table_add(&t, "%s", str(b, "name"));
        table_add(&t, "%lld", integer(b, "ports"));
        table_add(&t, "%llds", integer(b, "age"));
        table_add(&t, "%s", json_is_true(json_object_get(b, "forward_reserved")) ? "yes" : "no");
        table_add(&t, "%s%s", str(b, "vlan_filtering"),
                  strcmp(str(b, "vlan_filtering"), "auto")           ? ""
                  : json_is_true(json_object_get(b, "filters_vlans")) ? " (on)"
                                                                     : " (off)");
        table_add(&t, "%s", str(b, "vlan_protocol"));
        table_add(&t, "%lld", integer(b, "vlan_default_pvid"));
    }
    table_print(&t, f);
}

static int get_config(struct client *c, const char *name, json_t **out, struct err *e)
{
    json_t *r = NULL, *port;
    int rc = client_call(c, "config.get", NULL, &r, e);

    if (rc) {
        return rc;
    }
    if (!name) {
        *out = json_incref(json_object_get(r, "config"));
    } else {
        port = json_object_get(json_object_get(json_object_get(r, "config"), "ports"), name);
        *out = port ? json_pack("{s:{s:O}}", "ports", name, port) : NULL;
        rc = port ? 0 : err_set(e, -ENOENT, "there is no port %s", name);
    }
    json_decref(r);
    return rc;
}

static void print_config(FILE *f, const json_t *r, const char *name)
{
    char *text = conf_to_yaml(r);

    fputs(text ? text : "", f);
    free(text);
}

struct thing {
    int (*get)(struct client *c, const char *name, json_t **out, struct err *e);
    void (*print)(FILE *f, const json_t *r, const char *name);
};

static const struct cli_word words[] = {
    {"ports", NULL, NULL, NULL},  {"macs", NULL, NULL, NULL},   {"workers", NULL, NULL, NULL},
    {"drops", NULL, NULL, NULL},  {"bridges", NULL, NULL, NULL}, {"config", NULL, NULL, NULL},
    {"vlans", NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};
static const struct thing things[] = {
    {get_ports, print_ports}, {get_macs, print_macs},       {get_workers, print_workers},
    {get_drops, print_drops}, {get_bridges, print_bridges}, {get_config, print_config},
    {get_vlans, print_vlans},
};
static_assert(ARRAY_SIZE(things) + 1 == ARRAY_SIZE(words), "one thing per word");

/* The screen is cleared only when there is a screen, and only when the new text is complete. */
static int show_once(struct client *c, const struct thing *t, const char *name,
                     const struct cli_opts *o, struct err *e)
{
    json_t *r = NULL;
    char *text = NULL;
    size_t len = 0;
    FILE *f;
    int rc = t->get(c, name, &r, e);

    if (rc) {
        json_decref(r);
        return rc;
    }
    f = open_memstream(&text, &len);
    if (!f) {
        json_decref(r);
        return err_set(e, -ENOMEM, "out of memory");
    }
    if (o->json) {
        json_dumpf(r, f, o->watch ? JSON_COMPACT : JSON_INDENT(2));
        fputc('\n', f);
    } else {
        t->print(f, r, name);
    }
    fclose(f);
    json_decref(r);
    if (o->watch && !o->json && isatty(STDOUT_FILENO)) {
        fputs("\033[H\033[J", stdout);
    }
    fwrite(text, 1, len, stdout);
    free(text);
    if (fflush(stdout)) {
        return err_set(e, -EIO, "cannot write: %s", strerror(errno));
    }
    return 0;
}

static int show(const struct thing *t, const char *name, const struct cli_opts *o)
{
    struct err e = {0};
    struct client c;

    if (client_open(&c, o->rundir, &e)) {
        return cli_failed(&e);
    }

    int rc = show_once(&c, t, name, o, &e);

    while (!rc && o->watch) {
        sleep(1);
        rc = show_once(&c, t, name, o, &e);
    }
    client_close(&c);
    return rc ? cli_failed(&e) : 0;
}

int cmd_show(int argc, char **argv)
{
    const struct cli_word *w;
    struct cli_opts o;
    int status = cli_options(&o, argc, argv, CLI_JSON | CLI_WATCH, usage);

    if (status >= 0) {
        return status;
    }
    if (o.n_args < 1 || o.n_args > 2) {
        return cli_usage("show what? ports, macs, vlans, workers, drops, bridges or config [NAME]");
    }
    w = cli_find(words, o.args[0], "thing to show");
    return w ? show(&things[w - words], o.n_args > 1 ? o.args[1] : NULL, &o) : CLI_USAGE;
}

/* The question people have in mind when they look at drops. */
int cmd_why(int argc, char **argv)
{
    struct cli_opts o;
    int status =
        cli_options(&o, argc, argv, CLI_JSON | CLI_WATCH,
                    "usage: ringway why PORT [--json] [--watch] [--rundir DIR]\n"
                    "Why frames from or to PORT were dropped: `ringway show drops PORT`.\n");

    if (status >= 0) {
        return status;
    }
    if (o.n_args != 1) {
        return cli_usage("why needs the name of one port");
    }
    return show(&(const struct thing){get_drops, print_drops}, o.args[0], &o);
}
