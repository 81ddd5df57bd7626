package nodeapi

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
)

// appealPause separates two incidents: answers through the store that follow
// each other more closely are one event.
const appealPause = 5 * time.Second

// change of one record; Rev 0 means that there was, or is, none.
type pair[T any] struct{ was, is cluster.Rec[T] }

func (p pair[T]) made() bool { return p.was.Rev == 0 && p.is.Rev != 0 }
func (p pair[T]) gone() bool { return p.is.Rev == 0 }

func pairOf[K comparable, T any](before, after map[K]cluster.Rec[T], key K) pair[T] {
	return pair[T]{before[key], after[key]}
}

// derive says in words what a change means.
func derive(before, after *cluster.State, c mirror.Change) []Event {
	kind, name, _ := strings.Cut(strings.TrimPrefix(c.KV.Key, cluster.Prefix), "/")
	node, service, boot := cluster.NodeName(name), cluster.ServiceName(name), cluster.BootID(name)
	switch kind {
	case "node":
		return nodeEvents(pairOf(before.Nodes, after.Nodes, node))
	case "host":
		return hostEvents(pairOf(before.Hosts, after.Hosts, cluster.HostName(name)))
	case "boot":
		return bootEvents(pairOf(before.Boots, after.Boots, boot))
	case "ended":
		return endedEvents(pairOf(before.Ended, after.Ended, boot))
	case "certificate":
		return certificateEvents(after, pairOf(before.Certs, after.Certs, name))
	case "contradiction":
		return contradictionEvents(pairOf(before.Contras, after.Contras, boot))
	case "absence":
		return absenceEvents(after, pairOf(before.Absence, after.Absence, name))
	case "view":
		return viewEvents(after, pairOf(before.Views, after.Views, node))
	case "appeal":
		return appealEvents(pairOf(before.Appeals, after.Appeals, boot))
	case "fence":
		return fenceEvents(pairOf(before.Fences, after.Fences, boot))
	case "fence-report":
		return fenceReportEvents(after, pairOf(before.FenceRp, after.FenceRp, boot))
	case "power-on":
		return powerOnEvents(pairOf(before.PowerOn, after.PowerOn, boot))
	case "power-on-report":
		return powerOnReportEvents(after, pairOf(before.PowerRp, after.PowerRp, boot))
	case "owner":
		return ownerEvents(pairOf(before.Owners, after.Owners, service))
	case "ticket":
		return ticketEvents(pairOf(before.Tickets, after.Tickets, service))
	case "report":
		return reportEvents(pairOf(before.Reports, after.Reports, service))
	case "probe":
		return probeEvents(pairOf(before.Probes, after.Probes, node))
	case "failure":
		return failureEvents(pairOf(before.Failed, after.Failed, name))
	case "standby":
		return standbyEvents(pairOf(before.Standby, after.Standby, node))
	case "wish":
		return wishEvents(service, pairOf(before.Wishes, after.Wishes, service))
	case "token":
		return tokenEvents(name, pairOf(before.Tokens, after.Tokens, name))
	case "config":
		return one("config", after.Meta.Value.Name, "", "a new configuration is applied: %s, %s",
			count(len(after.Config.Value.Nodes), "node"), count(len(after.Config.Value.Services), "service"))
	case "disarm":
		if after.Disarm.Rev == 0 {
			return one("armed", after.Meta.Value.Name, "", "the cluster is armed again")
		}
		return one("disarmed", after.Meta.Value.Name, "", "the cluster is disarmed by %s (%s): nobody is fenced and nothing is recovered", after.Disarm.Value.By, after.Disarm.Value.Reason)
	case "leader":
		leader := after.Leader.Value
		return one("leader", string(leader.Node), leader.Node, "%s leads now, epoch %d", leader.Node, leader.Epoch)
	}
	return nil
}

func one[S ~string](kind string, subject S, node cluster.NodeName, format string, args ...any) []Event {
	return []Event{{Kind: kind, Subject: string(subject), Node: node, Text: fmt.Sprintf(format, args...)}}
}

func nodeEvents(p pair[cluster.Node]) []Event {
	switch n := p.is.Value; {
	case p.gone():
		return one("node", p.was.Value.Name, p.was.Value.Name, "%s was removed from the cluster", p.was.Value.Name)
	case p.made():
		return one("node", n.Name, n.Name, "%s is admitted, at %s", n.Name, n.Address)
	case p.was.Value.Member == 0 && n.Member != 0:
		return one("node", n.Name, n.Name, "%s is announced to the voters", n.Name)
	case !p.was.Value.Removing && n.Removing:
		return one("node", n.Name, n.Name, "%s is being removed from the cluster", n.Name)
	case p.was.Value.Removing:
		return one("node", n.Name, n.Name, "%s is not removed after all", n.Name)
	case p.was.Value != n:
		return one("node", n.Name, n.Name, "%s is admitted anew, at %s", n.Name, n.Address)
	}
	return nil
}

func hostEvents(p pair[cluster.Host]) []Event {
	switch {
	case p.gone():
		return one("host", p.was.Value.Name, "", "host %s was removed", p.was.Value.Name)
	case p.made():
		return one("host", p.is.Value.Name, "", "host %s is enrolled, at %s", p.is.Value.Name, p.is.Value.Address)
	}
	return one("host", p.is.Value.Name, "", "host %s is enrolled anew, at %s", p.is.Value.Name, p.is.Value.Address)
}

func contradictionEvents(p pair[cluster.Contradiction]) []Event {
	was, c := p.was.Value, p.is.Value
	switch {
	case p.gone():
		return nil // tidied up when it was over
	case p.made():
		return one("contradiction", c.Node, c.Node, "boot %s of %s ran after its end was proved (%s): that proof was false (%s, seen by %s)", c.Boot, c.Node, c.Evidence, c.How, c.By)
	case was.Settled == "" && c.Settled != "":
		return one("contradiction", c.Node, c.Node, "boot %s of %s, which ran after its end was proved, is %s", c.Boot, c.Node, c.Settled)
	case len(c.Hosts) < len(was.Hosts):
		return one("contradiction", c.Node, c.Node, "a host that gave false evidence on boot %s of %s is trusted again", c.Boot, c.Node)
	}
	return nil
}

func bootEvents(p pair[cluster.Boot]) []Event {
	b := p.is.Value
	switch {
	case p.gone():
		return nil // tidied up long after its end
	case p.made():
		return one("registered", b.Node, b.Node, "%s has booted%s and looks what is active (boot %s)", b.Node, places(b.Places), b.ID)
	case p.was.Value.Phase != b.Phase && b.Phase == cluster.PhaseMember:
		return one("member", b.Node, b.Node, "%s is a member and may run services", b.Node)
	case p.was.Value.Phase != b.Phase && b.Phase == cluster.PhaseLeaving:
		return one("leaving", b.Node, b.Node, "%s is leaving: it stops what it runs", b.Node)
	case !slices.Equal(p.was.Value.Places, b.Places):
		return one("places", b.Node, b.Node, "%s is now%s", b.Node, places(b.Places))
	}
	return nil
}

func places(hosts []cluster.HostName) string {
	if len(hosts) == 0 {
		return ""
	}
	return " on host " + strings.Join(words(hosts), " or ")
}

func endedEvents(p pair[cluster.Ended]) []Event {
	if !p.made() {
		return nil
	}
	e := p.is.Value
	return one("ended", e.Node, e.Node, "%s has ended, by %s: %s (boot %s)", e.Node, e.Evidence, e.Detail, e.Boot)
}

func certificateEvents(after *cluster.State, p pair[cluster.DeathCertificate]) []Event {
	if !p.made() {
		return nil
	}
	cert := p.is.Value
	node := nodeIn(after, cert.Life)
	return one("certificate", cmp.Or(string(node), string(cert.Guest)), node, "host %s certifies that the guest of %s has ended: %s",
		cert.Host, cmp.Or(string(node), string(cert.Guest)), cert.Cause)
}

func absenceEvents(after *cluster.State, p pair[cluster.Absence]) []Event {
	if p.gone() {
		return nil // the place went with it, or the guest is on its way back
	}
	a := p.is.Value
	node := nodeIn(after, a.Life)
	refused := ""
	if a.Final {
		refused = ", and never takes it again"
	}
	return one("absence", cmp.Or(string(node), string(a.Guest)), node, "host %s does not have the guest of %s%s: %s",
		a.Host, cmp.Or(string(node), string(a.Guest)), refused, a.Why)
}

// nodeIn returns the node whose boot is in a life; "" is none.
func nodeIn(s *cluster.State, life cluster.LifeID) (node cluster.NodeName) {
	for _, boot := range s.Boots {
		if boot.Value.Life == life {
			node = boot.Value.Node
		}
	}
	return node
}

func viewEvents(after *cluster.State, p pair[cluster.View]) []Event {
	was, is := p.was.Value, p.is.Value
	if was.Boot != is.Boot {
		was = cluster.View{}
	}
	var out []Event
	if is.Abstain && !was.Abstain {
		out = append(out, one("view", is.Node, is.Node, "%s was held up itself and accuses nobody for a while", is.Node)...)
	}
	for _, boot := range slices.Sorted(maps.Keys(is.Silent)) {
		if is.Silent[boot] != was.Silent[boot] {
			node := nodeOf(after, boot)
			out = append(out, one("silent", node, is.Node, "%s does not hear %s (%s)", is.Node, node, is.Silent[boot])...)
		}
	}
	for _, boot := range slices.Sorted(maps.Keys(was.Silent)) {
		if _, ended := after.Ended[boot]; is.Silent[boot] == "" && !ended {
			node := nodeOf(after, boot)
			out = append(out, one("heard", node, is.Node, "%s hears %s again", is.Node, node)...)
		}
	}
	return out
}

func nodeOf(s *cluster.State, boot cluster.BootID) string {
	if b, ok := s.Boots[boot]; ok {
		return string(b.Value.Node)
	}
	return "boot " + string(boot)
}

func appealEvents(p pair[cluster.Appeal]) []Event {
	if p.gone() || p.was.Rev != 0 && p.is.Since-p.was.Since < appealPause {
		return nil
	}
	a := p.is.Value
	return one("appeal", a.Node, a.Node, "%s is not heard by %s but answers through the store: it is alive, check the heartbeat network",
		a.Node, strings.Join(words(slices.Sorted(maps.Keys(a.Answers))), ", "))
}

func fenceEvents(p pair[cluster.Fence]) []Event {
	f := p.is.Value
	switch {
	case p.gone():
		return nil
	case p.made():
		return one("fence", f.Node, f.Node, "%s is to be fenced, %s: %s; attempt 1 by %s", f.Node, f.Reason, f.Detail, f.Executor)
	}
	return one("attempt", f.Node, f.Node, "fencing %s goes on: attempt %d by %s", f.Node, f.Attempt, f.Executor)
}

func fenceReportEvents(after *cluster.State, p pair[cluster.FenceReport]) []Event {
	if p.gone() {
		return nil
	}
	r := p.is.Value
	node := nodeOf(after, r.Boot)
	return one("fence report", node, r.Executor, "fencing %s, attempt %d by %s: %s (%s)", node, r.Attempt, r.Executor, r.Outcome, r.Detail)
}

func powerOnEvents(p pair[cluster.PowerOn]) []Event {
	if p.gone() {
		return nil
	}
	on := p.is.Value
	return one("power on", on.Node, on.Node, "%s was fenced and shall be started anew on host %s, attempt %d by %s", on.Node, on.Host, on.Attempt, on.Executor)
}

func powerOnReportEvents(after *cluster.State, p pair[cluster.PowerOnReport]) []Event {
	if p.gone() {
		return nil
	}
	r := p.is.Value
	node := nodeOf(after, r.Boot)
	return one("power on report", node, r.Executor, "starting %s anew, attempt %d by %s: %s (%s)", node, r.Attempt, r.Executor, r.Outcome, r.Detail)
}

func ownerEvents(p pair[cluster.Owner]) []Event {
	was, is := p.was.Value, p.is.Value
	switch {
	case p.gone():
		return nil
	case is.Boot == "":
		if was.Boot == "" {
			return nil
		}
		return one("released", is.Service, was.Node, "%s is given to nobody: %s", is.Service, is.Reason)
	case was.Boot != is.Boot || was.Generation != is.Generation:
		return one("owner", is.Service, is.Node, "%s is given to %s, generation %d: %s", is.Service, is.Node, is.Generation, is.Reason)
	case was.Want != is.Want:
		return one("order", is.Service, is.Node, "%s shall %s on %s: %s", is.Service, is.Want, is.Node, is.Reason)
	}
	return nil
}

func ticketEvents(p pair[cluster.Ticket]) []Event {
	if p.gone() {
		return nil
	}
	t := p.is.Value
	return one("ticket", t.Service, t.Node, "%s opens the start of %s, generation %d", t.Node, t.Service, t.Generation)
}

func reportEvents(p pair[cluster.Report]) []Event {
	was, is := p.was.Value, p.is.Value
	if p.gone() || was == is {
		return nil
	}
	text := fmt.Sprintf("%s is %s on %s", is.Service, is.State, is.Node)
	switch is.State {
	case cluster.ReportFailed:
		text = fmt.Sprintf("%s has failed on %s, verified stopped there", is.Service, is.Node)
	case cluster.ReportStopFailed:
		text = fmt.Sprintf("%s could not be stopped on %s, which must be fenced", is.Service, is.Node)
	}
	if is.Detail != "" {
		text += ": " + is.Detail
	}
	return one("report", is.Service, is.Node, "%s", text)
}

func probeEvents(p pair[cluster.Probe]) []Event {
	var out []Event
	for _, service := range slices.Sorted(maps.Keys(p.is.Value.Active)) {
		if found := p.is.Value.Active[service]; found != p.was.Value.Active[service] {
			out = append(out, one("probe", service, p.is.Value.Node, "%s may be active on %s, which does not own it: %s", service, p.is.Value.Node, found)...)
		}
	}
	for _, service := range slices.Sorted(maps.Keys(p.is.Value.Autostart)) {
		if found := p.is.Value.Autostart[service]; found != p.was.Value.Autostart[service] {
			out = append(out, one("probe", service, p.is.Value.Node, "%s would start %s by itself: %s", p.is.Value.Node, service, found)...)
		}
	}
	return out
}

func failureEvents(p pair[cluster.Failure]) []Event {
	if p.gone() {
		f := p.was.Value
		return one("cleared", f.Service, f.Node, "%s may run on %s again: its failures are cleared", f.Service, f.Node)
	}
	f := p.is.Value
	return one("failure", f.Service, f.Node, "%s avoids %s, which failed to run it (%s): %s", f.Service, f.Node, count(f.Count, "time"), f.Detail)
}

func standbyEvents(p pair[cluster.Standby]) []Event {
	if p.gone() {
		return one("unstandby", p.was.Value.Node, p.was.Value.Node, "%s is not on standby any more", p.was.Value.Node)
	}
	return one("standby", p.is.Value.Node, p.is.Value.Node, "%s is on standby, set by %s", p.is.Value.Node, p.is.Value.By)
}

func wishEvents(service cluster.ServiceName, p pair[cluster.Wish]) []Event {
	was, is := p.was.Value, p.is.Value
	switch {
	case p.gone() && was.Stopped:
		return one("wish", service, "", "%s may run again", service)
	case p.gone():
		return one("wish", service, was.MoveTo, "the move of %s to %s is over", service, was.MoveTo)
	}
	return one("wish", service, is.MoveTo, "%s is wished %s", service, wishText(is))
}

func tokenEvents(id string, p pair[cluster.Token]) []Event {
	switch {
	case p.made():
		return one("token", id, "", "join token %s was made", id)
	case p.gone() && p.was.Value.Node == "":
		return one("token", id, "", "join token %s was removed", id)
	case !p.gone() && p.is.Value.Node != "" && p.was.Value.Node == "":
		return one("token", id, cluster.NodeName(p.is.Value.Node), "join token %s was used by %s", id, p.is.Value.Node)
	}
	return nil
}
