// Command ringfence-agents is all fence agents in one binary. A cluster manager
// starts them by name: called through a symlink it is the agent that the link is
// named after. It is small and imports little, since an agent is started at each
// fencing and every minute in between.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"ringfence/internal/fence"
)

func main() {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:]))
}

func run(name string, args []string) int {
	if agent, ok := agents()[name]; ok {
		return agent(context.Background(), fence.Invocation{
			Name: name, Args: args, In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Version: version(), Log: fence.Syslog(name),
		})
	}
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return fence.ExitFailed
	}
	verb, rest := args[0], args[1:]
	switch verb {
	case "list":
		for _, name := range names() {
			fmt.Println(name)
		}
		return fence.ExitOK
	case "install":
		return install(rest)
	case "version":
		fmt.Println("ringfence-agents", version())
		return fence.ExitOK
	case "help", "-h", "--help":
		fmt.Print(usage)
		return fence.ExitOK
	}
	if _, ok := agents()[verb]; ok {
		return run(verb, rest)
	}
	fmt.Fprintf(os.Stderr, "ringfence-agents: no agent or command %q\n%s", verb, usage)
	return fence.ExitFailed
}

const usage = `usage: ringfence-agents AGENT [options]           run an agent; AGENT -h prints its options
       ringfence-agents list                      print the agents
       ringfence-agents install --dir DIR [--force]
                                                  make a symlink for each agent in DIR, where the
                                                  cluster manager looks for them (/usr/sbin);
                                                  --force moves what is in the way aside
       ringfence-agents version                   print the version
`
