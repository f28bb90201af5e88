package nix

import "time"

// PathInfo is what a store knows of one of its objects, without the content.
type PathInfo struct {
	Path    StorePath
	NARHash Hash  // SHA-256 of the archive
	NARSize int64 // length of the archive in bytes
	// References are sorted and have no duplicates; the object itself is among
	// them when it refers to itself.
	References []StorePath
	Deriver    StorePath // "" when it is not known
	// RegistrationTime has a resolution of seconds.
	RegistrationTime time.Time
	// Ultimate says that this store built the object itself, and so needs nobody
	// else's word for it.
	Ultimate   bool
	Signatures []string // "<key name>:<base64>"
	CA         ContentAddress
}

// SelfReferences splits the references as content addressing wants them.
func (i *PathInfo) SelfReferences() References {
	var r References
	for _, p := range i.References {
		if p == i.Path {
			r.Self = true
		} else {
			r.Others = append(r.Others, p)
		}
	}
	return r
}

// DrvOutput identifies an output of a derivation: what a realisation is about.
type DrvOutput struct {
	Drv    StorePath
	Output OutputName
}

// Realisation says which object an output turned out to be.
type Realisation struct {
	ID         DrvOutput
	OutPath    StorePath
	Signatures []string
}
