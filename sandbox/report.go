package sandbox

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
