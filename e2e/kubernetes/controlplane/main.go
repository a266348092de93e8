// Package main is a Kubernetes control plane in one program: etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler and kubectl, each the
// unchanged command of its own Go module. Which one it is comes from the name
// it was started under (so a symbolic link named kubectl is kubectl) or, when
// that name is none of the five, from its first argument.
//
// One program because the five share most of their packages: compiled and
// linked once, they take a quarter less time and half the disk of five programs.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // time zones of CronJobs, on machines without a zone database

	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's credential plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client and work queue metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// commands are the programs this one can be. Each finds its own name in
// os.Args[0], as if it were alone, and returns its exit code.
var commands = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 kubectl,
}

func main() {
	name, args, err := choose(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(2)
	}
	os.Args = args
	os.Exit(commands[name]())
}

// choose finds the command that args, a whole argument list with the program's
// own name first, asks for, and the argument list to hand to it.
func choose(args []string) (name string, rest []string, err error) {
	names := strings.Join(slices.Sorted(maps.Keys(commands)), ", ")
	if len(args) == 0 {
		return "", nil, errors.New("started without a name: the first argument must be one of " + names)
	}
	if name = filepath.Base(args[0]); commands[name] != nil {
		return name, args, nil
	}
	if len(args) == 1 {
		return "", nil, errors.New("the first argument must be one of " + names)
	}
	if name = args[1]; commands[name] != nil {
		return name, args[1:], nil
	}
	return "", nil, fmt.Errorf("no command %q: the first argument must be one of %s", args[1], names)
}

// kubectl sets the log level before it builds the command, because building it
// already looks for plugins and reads the user's preferences. A level that is
// no number is left for the command's own flags to complain about: this early
// look takes the value of any argument that contains "-v=" for one.
func kubectl() int {
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		cmdutil.CheckErr(err) // prints what is wrong the way kubectl does, and exits
	}
	return 0
}
