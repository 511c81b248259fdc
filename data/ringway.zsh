#compdef ringway
# SPDX-License-Identifier: Apache-2.0
# zsh completion for ringway(1)

_ringway_names() { # THING: names from the running switch, nothing if there is none
    local -a names
    names=(${(f)"$(ringway show $1 --json 2>/dev/null | sed -n 's/^      "name": "\(.*\)",\{0,1\}$/\1/p')"})
    compadd -a names
}

_ringway() {
    local -a commands
    commands=(
        'run:run a switch in the foreground' 'show:look at a running switch'
        'why:why frames of a port were dropped' 'capture:record the frames of a port'
        'port:change ports' 'mac:change the MAC table'
        'bridge:change bridges' 'vlan:change VLANs of ports' 'stop:stop a switch' 'check:check a configuration file'
        'demo:two virtual machines talk' 'bench:measure' 'help:help' 'version:print the version'
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local cmd=$words[2]
    shift words
    (( CURRENT-- ))
    case $cmd in
    run)
        _arguments '-c[configuration file]:file:_files' '--rundir[run directory]:directory:_files -/' \
            '--workers[CPUs]:CPU list' '--mac-size[MAC table entries]:number' \
            '--poll-us[polling before sleep]:microseconds' \
            '--balance-ms[spreading of queues over workers]:milliseconds' \
            '--log-level[what to print]:level:(error warn info debug)' \
            '--libvirt[print XML for libvirt]' '--help' '*:port'
        ;;
    show)
        _arguments '1:thing:(ports macs vlans workers drops bridges config)' \
            '2:name:{ [[ $words[2] = b* ]] && _ringway_names bridges || _ringway_names ports }' \
            '(-j --json)'{-j,--json}'[print JSON]' '(-w --watch)'{-w,--watch}'[every second]' \
            '--rundir[run directory]:directory:_files -/' '--help'
        ;;
    why) _arguments '1:port:_ringway_names ports' '--rundir[run directory]:directory:_files -/' ;;
    capture)
        _arguments '1:port:_ringway_names ports' '-w[write pcapng]:file:_files' \
            '-c[end after so many frames]:number' '--duration[end after so many seconds]:seconds' \
            '-s[bytes of each frame]:number' '-Q[direction]:direction:(in out inout)' \
            '--drops[only dropped frames]' '-B[buffer of each worker]:KiB' '-U[write at once]' \
            '--rundir[run directory]:directory:_files -/' '--help' '*:filter'
        ;;
    port) _arguments '1:verb:(add del set)' '*:port:_ringway_names ports' ;;
    mac) _arguments '1:verb:(add del flush)' '*:port:_ringway_names ports' ;;
    bridge) _arguments '1:verb:(add set del)' '2:bridge:_ringway_names bridges' ;;
    vlan) _arguments '1:verb:(add del show)' '2:dev:(dev)' '3:port:_ringway_names ports' '4:vid:(vid)' '*:flag:(pvid untagged)' ;;
    check) _arguments '-c[configuration file]:file:_files' ;;
    help) _describe command commands ;;
    esac
}
_ringway "$@"
