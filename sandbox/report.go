package sandbox

import (
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// Report says of one program what was asked for to keep it apart from the machine
// and what is in force. A set-up that fails in any step ends without a program,
// so what was compiled into it is in force for every program that runs.
type Report struct {
	Level  string // "full", "partial" or "none"
	Layers []Layer
}

// Layer is one means of isolation.
type Layer struct {
	Name    string
	Asked   string
	InForce string
	Why     string
}

// limitText is a limit as the report has it.
type limitText struct {
	of   cgroup.Resource
	text string
}

func limitTexts(l cgroup.Limits) (list []limitText) {
	for _, of := range l.Wanted() {
		var parts []string
		switch of {
		case cgroup.Memory:
			parts = append(parts, fmt.Sprintf("%d bytes", l.Memory))
		case cgroup.Processes:
			parts = append(parts, fmt.Sprint(l.Processes))
		case cgroup.CPU:
			if l.CPUWeight > 0 {
				parts = append(parts, fmt.Sprintf("weight %d", l.CPUWeight))
			}
			if l.CPUQuota > 0 {
				parts = append(parts, fmt.Sprintf("%d.%02d processors", l.CPUQuota/100, l.CPUQuota%100))
			}
		}
		list = append(list, limitText{of, strings.Join(parts, ", ")})
	}
	return list
}
