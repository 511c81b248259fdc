# SPDX-License-Identifier: Apache-2.0
# fish completion for ringway(1)

function __ringway_names # THING: names from the running switch, nothing if there is none
    ringway show $argv[1] --json 2>/dev/null | string match -rg '^      "name": "(.*)",?$'
end

function __ringway_at # COMMAND N: word N of COMMAND is being written
    set -l words (commandline -opc)
    test (count $words) -eq (math $argv[2] + 1); and test "$words[2]" = $argv[1]
end

complete -c ringway -f
complete -c ringway -n __fish_use_subcommand -a run -d 'run a switch in the foreground'
complete -c ringway -n __fish_use_subcommand -a show -d 'look at a running switch'
complete -c ringway -n __fish_use_subcommand -a why -d 'why frames of a port were dropped'
complete -c ringway -n __fish_use_subcommand -a capture -d 'record the frames of a port'
complete -c ringway -n __fish_use_subcommand -a port -d 'change ports'
complete -c ringway -n __fish_use_subcommand -a mac -d 'change the MAC table'
complete -c ringway -n __fish_use_subcommand -a bridge -d 'change bridges'
complete -c ringway -n __fish_use_subcommand -a vlan -d 'change VLANs of ports'
complete -c ringway -n __fish_use_subcommand -a stop -d 'stop a switch'
complete -c ringway -n __fish_use_subcommand -a check -d 'check a configuration file'
complete -c ringway -n __fish_use_subcommand -a demo -d 'two virtual machines talk'
complete -c ringway -n __fish_use_subcommand -a bench -d measure
complete -c ringway -n __fish_use_subcommand -a 'help version'
complete -c ringway -n '__ringway_at show 1' -a 'ports macs vlans workers drops bridges config'
complete -c ringway -n '__ringway_at show 2' -a '(__ringway_names ports)'
complete -c ringway -n '__ringway_at why 1' -a '(__ringway_names ports)'
complete -c ringway -n '__ringway_at capture 1' -a '(__ringway_names ports)'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s w -r -F -d 'write pcapng'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s c -x -d 'end after so many frames'
complete -c ringway -n '__fish_seen_subcommand_from capture' -l duration -x -d 'end after so many seconds'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s s -x -d 'bytes of each frame'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s Q -x -a 'in out inout' -d direction
complete -c ringway -n '__fish_seen_subcommand_from capture' -l drops -d 'only dropped frames'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s B -x -d 'buffer of each worker, KiB'
complete -c ringway -n '__fish_seen_subcommand_from capture' -s U -d 'write at once'
complete -c ringway -n '__ringway_at port 1' -a 'add del set'
complete -c ringway -n '__ringway_at port 2' -a '(__ringway_names ports)'
complete -c ringway -n '__ringway_at mac 1' -a 'add del flush'
complete -c ringway -n '__ringway_at bridge 1' -a 'add set del'
complete -c ringway -n '__ringway_at vlan 1' -a 'add del show'
complete -c ringway -n '__ringway_at vlan 2' -a dev
complete -c ringway -n '__ringway_at vlan 3' -a '(__ringway_names ports)'
complete -c ringway -n '__ringway_at vlan 4' -a vid
complete -c ringway -n '__ringway_at vlan 6' -a 'pvid untagged'
complete -c ringway -n '__ringway_at bridge 2' -a '(__ringway_names bridges)'
complete -c ringway -n '__fish_seen_subcommand_from show why' -s j -l json -d 'print JSON'
complete -c ringway -n '__fish_seen_subcommand_from show why' -s w -l watch -d 'every second'
complete -c ringway -n '__fish_seen_subcommand_from run check' -s c -r -F -d 'configuration file'
complete -c ringway -n '__fish_seen_subcommand_from run' -l workers -x -d 'CPUs of the workers'
complete -c ringway -n '__fish_seen_subcommand_from run' -l mac-size -x -d 'MAC table entries'
complete -c ringway -n '__fish_seen_subcommand_from run' -l poll-us -x -d 'polling before sleep'
complete -c ringway -n '__fish_seen_subcommand_from run' -l balance-ms -x -d 'spreading of queues'
complete -c ringway -n '__fish_seen_subcommand_from run' -l log-level -x -a 'error warn info debug'
complete -c ringway -n '__fish_seen_subcommand_from run' -l libvirt -d 'print XML for libvirt'
complete -c ringway -l rundir -x -a '(__fish_complete_directories)' -d 'run directory'
complete -c ringway -s h -l help
