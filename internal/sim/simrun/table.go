package main

// mutants are the guards that worlds must watch over: at least one for each
// promise I1–I6 and each backbone rule.
var mutants = []mutant{
	{"silence is evidence", "I1", []edit{{
		"internal/plan/service.go",
		"	case b.doomed || b.suspect():\n		r.status.State = cluster.ServiceRecovering\n",
		"	case b.doomed || b.suspect():\n		r.assign(\"it is silent\", nil)\n",
	}}},
	{"a missing report means stopped", "I2", []edit{{
		"internal/plan/service.go",
		"	case r.report.Value.State == cluster.ReportStopped:",
		"	case r.report.Value.State == cluster.ReportStopped || r.owner.Value.Want == cluster.WantStop:",
	}}},
	{"a decision is made again", "I3", []edit{{
		"internal/plan/boots.go",
		"		_, b.doomed = p.s.Fences[rec.Value.ID]\n", "",
	}, {
		"internal/plan/fence.go",
		"absent(cluster.KeyFence(b.id())), guardOf", "guardOf(cluster.KeyFence(b.id()), p.s.Fences[b.id()].Rev), guardOf",
	}}},
	{"fencing is tried once", "I4", []edit{{
		"internal/plan/fence.go",
		"	next.Executor = p.executor(b, fence.Value.Executor)\n	if next.Executor == \"\" {",
		"	next.Executor = p.executor(b, fence.Value.Executor)\n	if next.Executor != \"\" {",
	}}},
	{"a minority goes on", "I5", []edit{{
		"internal/node/stay.go",
		"		case !held && now-last > storeBudget:", "		case !held && now-last > 1000*storeBudget:",
	}}},
	{"answers do not count", "I6", []edit{{
		"internal/plan/boots.go",
		"func (b *standing) silent() bool { return b.majority(b.lostBy) && len(b.appealed) == 0 }",
		"func (b *standing) silent() bool { return b.majority(b.lostBy) }",
	}}},
	{"who leaves has died", "P4", []edit{{
		"internal/hypervisor/hypervisor.go",
		"	case ReasonShutdown, ReasonDestroyed, ReasonCrashed, ReasonFailed:",
		"	case ReasonShutdown, ReasonDestroyed, ReasonCrashed, ReasonFailed, ReasonSaved, ReasonMigrated:",
	}}},
	{"off kills at the source alone", "P5", []edit{{
		"internal/hostd/act.go",
		"off(ctx context.Context, t Target) error {\n	if err := a.abort(ctx, t); err != nil {", "off(ctx context.Context, t Target) error {\n	if err := error(nil); err != nil {",
	}, {
		"internal/plan/fence.go",
		"		default:\n			return \"\", \"\", nil\n		}\n	}\n	return kind, strings.Join",
		"		default:\n			continue\n		}\n	}\n	return kind, strings.Join",
	}, {
		"internal/hostd/observe.go",
		"	case status == journal.Leaving && ev.Reason != hypervisor.ReasonSaved:", "	case status == journal.Leaving && ev.Reason == \"never\":",
	}, {
		"internal/hypervisor/hypervisor.go",
		"	case ReasonShutdown, ReasonDestroyed, ReasonCrashed, ReasonFailed:",
		"	case ReasonShutdown, ReasonDestroyed, ReasonCrashed, ReasonFailed, ReasonMigrated:",
	}}},
	{"a host without a grant takes anybody", "P5", []edit{{
		"internal/hostd/move.go",
		"	case in.Claimed != \"\" && !l.cfg.Permissions.Allows(in.Claimed, guest):", "	case in.Claimed == \"never\":",
	}, {
		"internal/hostd/move.go",
		"	case owner != \"\" || in.Claimed != \"\":", "	case owner != \"\":",
	}}},
	{"a reverted guest is left alone", "P7", []edit{{
		"internal/hostd/daemon.go",
		"		case e.Kill != nil:\n			d.actor.kill(d.ctx, *e.Kill)", "		case e.Kill != nil:",
	}}},
	{"off hits whatever runs", "P8", []edit{{
		"internal/hostd/act.go",
		"	return a.driver.Off(ctx, t.Guest, t.Life)\n}\n\n// abort",
		"	if now, err := a.driver.State(ctx, t.Guest); err == nil && now.Life != \"\" {\n		t.Life = now.Life\n	}\n	return a.driver.Off(ctx, t.Guest, t.Life)\n}\n\n// abort",
	}}},
	{"an end is told and not written down", "P9", []edit{{
		"internal/hostd/journal/journal.go",
		"	if err := j.storage.Append(frame); err != nil {\n",
		"	if entries[len(entries)-1].Certificate != nil {\n		frame = nil\n	} else if err := j.storage.Append(frame); err != nil {\n",
	}}},
	{"unknown is off", "P19", []edit{{
		"internal/plan/fence.go",
		"	return report.Outcome == cluster.OutcomeDone && report.Covers(boot)", "	return report.Outcome != cluster.OutcomeNotDone",
	}}},
	{"any host may certify", "P11", []edit{{
		"internal/plan/fence.go",
		"		cert, signed := s.CertificateOf(b.Life, place)\n",
		"		cert, signed := s.CertificateOf(b.Life, place)\n		for key, other := range s.Certs {\n			if !signed && strings.HasPrefix(key, string(b.Life)+\"/\") {\n				cert, signed = other, true\n			}\n		}\n",
	}, {
		"internal/plan/fence.go",
		"guardOf(cluster.KeyCertificate(b.Life, place), cert.Rev)", "guardOf(cluster.KeyCertificate(b.Life, cert.Value.Host), cert.Rev)",
	}}},
	{"orders name the node", "P15", []edit{{
		"internal/executor/worker.go",
		"mine: w.target.Value.Boot == w.Boot}", "mine: w.target.Value.Node == w.Node}",
	}, {
		"internal/executor/executor.go",
		"				if owner.Value.Boot == e.Boot || e.has(owner.Value.Service) {", "				if owner.Value.Node == e.Node || e.has(owner.Value.Service) {",
	}}},
	{"tickets compare nothing", "P15", []edit{{
		"internal/executor/ticket.go",
		"		tx.Guards = []cluster.Guard{\n			{Key: cluster.KeyOwner(w.service), Rev: o.owner.Rev},\n			{Key: cluster.KeyEnded(w.Boot)},\n			{Key: cluster.KeyFence(w.Boot)},\n			{Key: cluster.KeyLeader, Rev: s.Leader.Rev},\n		}",
		"		tx.Guards = nil",
	}, {
		"internal/executor/ticket.go",
		"			tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyTicket(w.service), Rev: s.Tickets[w.service].Rev})\n", "",
	}}},
	{"a failed start is not stopped", "P16", []edit{{
		"internal/executor/worker.go",
		"	w.stopAndReport(ctx, cluster.ReportFailed, cause.Error(), banOf(cause))",
		"	generation := w.running.Generation\n	w.running = cluster.Owner{}\n	w.setActive(false, nil)\n	w.reports.put(cluster.ReportFailed, generation, cause.Error(), 0)\n	_ = banOf",
	}}},
	{"one accuser is enough", "P17", []edit{{
		"internal/plan/boots.go",
		"	return len(accusers) > 0 && 2*len(accusers) > b.observers",
		"	return len(accusers) > 0",
	}}},
	{"a gap accuses everybody", "P17", []edit{{
		"internal/detect/detect.go",
		"		d.startOver(now, peers)\n", "",
	}, {
		"internal/node/pulse.go",
		"Words: verdict.Words, Abstain: verdict.Abstain}", "Words: verdict.Words}",
	}}},
	{"there is no brake", "P18", []edit{{
		"internal/plan/fence.go",
		"	if silent > 1 && 2*silent >= members {", "	if silent > 1000 {",
	}}},
	{"a decision is withdrawn", "P19", []edit{{
		"internal/plan/tidy.go",
		"func (p *planner) tidy() {\n",
		"func (p *planner) tidy() {\n	for id, fence := range p.s.Fences {\n		if b := p.byBoot[id]; b != nil && !b.ended && !b.suspect() {\n			p.order(OrderTidy, string(id), \"it answers again\", []cluster.Guard{guardOf(cluster.KeyFence(id), fence.Rev)}, cluster.Remove(cluster.KeyFence(id)))\n		}\n	}\n",
	}}},
	{"who cannot stop goes on", "P20", []edit{{
		"internal/node/reset.go",
		"	if n.Reset == nil {\n		log.", "	if n.Reset != nil {\n		log.",
	}}},
	{"any disk may vote", "P22", []edit{{
		"internal/wire/voter/voter.go",
		"	if c.Count <= m.Count {", "	if c.Count < 1 {",
	}}},
	{"nobody looks before a start", "P24", []edit{{
		"internal/plan/service.go",
		"		if !r.probed() {\n			return\n		}\n		r.assign(\"nobody owns it\", nil)",
		"		r.assign(\"nobody owns it\", nil)",
	}}},
	{"a node joins without looking", "P24", []edit{{
		"internal/node/register.go",
		"owner == n.Self.ID || owner != \"\" && !joining {", "owner == n.Self.ID || owner != \"\" && (joining || !joining) {",
	}}},
}
