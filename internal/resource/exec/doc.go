// Package exec is the resource agent that runs a command: agent = "exec".
//
// Parameters:
//
//	command      required. Without shell it is split at white space and nothing
//	             else: no quotes, no variables. A first word without a slash is
//	             searched in PATH.
//	shell        "true": the command is given to /bin/sh -c as it is. Default "false".
//	dir          absolute working directory. Default "/".
//	env.<NAME>   an environment variable of the command.
//	stop_signal  HUP, INT, KILL, QUIT, TERM, USR1, USR2 or WINCH. Default TERM.
//	stop_grace   how long the tree may take to end after stop_signal before all
//	             of it is killed, e.g. 5s. Default 10s; below the stop timeout.
//
// The command must stay in the foreground: the resource is active while its
// main process runs. Start returns when the main process executes the command;
// there is no readiness check, a command that ends soon after is reported by
// Watch. The environment is PATH, RINGFENCE_GENERATION, RINGFENCE_NODE,
// RINGFENCE_SERVICE, RINGFENCE_RESOURCE and env.*, nothing of the daemon's.
// Standard input is empty; output goes to <run dir>/<service>@<resource>.log,
// which is kept to two files of 1 MiB and lines of 4 KiB.
//
// Stop sends stop_signal to the main process's group (to every process of the
// tree when the main process has ended), waits, kills the tree, and returns nil
// only on the kernel's word that nothing is left: an empty cgroup, or a reaper
// without children (package proctree). A process that has the right to move
// itself into another cgroup and does so is outside that promise.
//
// What runs is recorded in the run directory before it runs, so that an agent
// made by a restarted daemon watches, monitors and stops it as the first one
// did. The run directory must be one that a reboot empties or keeps whole. Two
// daemons must not share one. Output that is written while no daemon runs waits
// in a pipe of 64 KiB; a command that fills it waits too.
package exec
