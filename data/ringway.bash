# SPDX-License-Identifier: Apache-2.0
# bash completion for ringway(1)

_ringway_names() { # THING MEMBER: names from the running switch, nothing if there is none
    ringway show "$1" --json 2>/dev/null |
        sed -n 's/^      "'"$2"'": "\(.*\)",\{0,1\}$/\1/p'
}

_ringway() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local cmd=${COMP_WORDS[1]} words=

    COMPREPLY=()
    case $cmd:$prev in
    capture:-w) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    capture:-Q) mapfile -t COMPREPLY < <(compgen -W 'in out inout' -- "$cur"); return ;;
    capture:-[csB] | capture:--duration) return ;;
    esac
    case $prev in
    --rundir) compopt -o dirnames; return ;;
    -c | --config) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --log-level) words='error warn info debug' ;;
    --workers | --mac-size | --poll-us | --balance-ms) return ;;
    *)
        case $COMP_CWORD:$cmd in
        1:*) words='run show why capture port mac bridge vlan stop check demo bench help version' ;;
        *:run) words='-c --rundir --workers --mac-size --poll-us --balance-ms --log-level --libvirt
                        --help' ;;
        2:show) words='ports macs vlans workers drops bridges config' ;;
        2:port) words='add del set' ;;
        2:mac) words='add del flush' ;;
        2:bridge) words='add set del' ;;
        2:vlan) words='add del show' ;;
        3:vlan) words='dev' ;;
        4:vlan) words=$(_ringway_names ports name) ;;
        5:vlan) words='vid' ;;
        *:vlan) [ "${COMP_WORDS[2]}" != add ] || words='pvid untagged' ;;
        2:help) words='run show why capture port mac bridge vlan stop check bench' ;;
        2:check) words='-c' ;;
        2:why | 2:capture) words=$(_ringway_names ports name) ;;
        3:bridge) words=$(_ringway_names bridges name) ;;
        3:port) [ "${COMP_WORDS[2]}" = add ] || words=$(_ringway_names ports name) ;;
        3:mac) [ "${COMP_WORDS[2]}" != flush ] || words=$(_ringway_names ports name) ;;
        4:mac) [ "${COMP_WORDS[2]}" != add ] || words=$(_ringway_names ports name) ;;
        3:show)
            case ${COMP_WORDS[2]} in
            ports | macs | vlans | drops | config) words=$(_ringway_names ports name) ;;
            bridges) words=$(_ringway_names bridges name) ;;
            esac
            ;;
        esac
        case $cmd:$cur in
        capture:-*) words='-w -c -s -Q -B -U --drops --duration --rundir --help' ;;
        show:-* | why:-*) words='--json --watch --rundir --help' ;;
        port:-* | mac:-* | bridge:-* | vlan:-* | stop:-*) words='--rundir --help' ;;
        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _ringway ringway
