package sandbox

// Check is one thing that a machine does or does not give to sandboxes.
type Check struct {
	Name  string
	OK    bool
	Found string // what was found out
	// Remedy says what to do when it is not OK, "" when nothing can be done.
	Remedy string
	// Needed is set for what no sandbox can do without. The rest makes sandboxes
	// better, and its lack shows in the isolation report.
	Needed bool
}

// Sandboxes tells whether the checks leave everything that sandboxes need.
func Sandboxes(checks []Check) bool {
	for _, c := range checks {
		if c.Needed && !c.OK {
			return false
		}
	}
	return true
}
