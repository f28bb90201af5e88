package nix

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix/base32"
)

// ContentAddressMethod says how the content of a store object is turned into
// the bytes that are hashed for its content address.
type ContentAddressMethod uint8

// The methods, in the order of the Nix manual ("Content-Addressing Store
// Objects"). The zero value is Flat.
const (
	Flat      ContentAddressMethod = iota // the bytes of one non-executable file
	Recursive                             // the archive (NAR) of the tree
	Text                                  // the bytes of one file that may refer to others; SHA-256 only
	Git                                   // the git blob or tree hash
)

// Prefix is what stands before the algorithm in a derivation's output: "",
// "r:", "text:" or "git:".
func (m ContentAddressMethod) Prefix() string {
	switch m {
	case Recursive:
		return "r:"
	case Text:
		return "text:"
	case Git:
		return "git:"
	}
	return ""
}

// String is the name that `outputHashMode` uses.
func (m ContentAddressMethod) String() string {
	switch m {
	case Recursive:
		return "nar"
	case Text:
		return "text"
	case Git:
		return "git"
	}
	return "flat"
}

// CutMethodPrefix splits "r:sha256" into its method and the rest.
func CutMethodPrefix(s string) (ContentAddressMethod, string) {
	for _, m := range []ContentAddressMethod{Recursive, Text, Git} {
		if rest, ok := strings.CutPrefix(s, m.Prefix()); ok {
			return m, rest
		}
	}
	return Flat, s
}

// ContentAddress is the claim that a store object's path follows from its
// content. The zero value is "none": the path follows from how it was built.
type ContentAddress struct {
	Method ContentAddressMethod
	Hash   Hash
}

// IsZero tells whether there is no content address.
func (c ContentAddress) IsZero() bool { return c.Hash.IsZero() }

// String is the form of databases, narinfos and protocols: "text:sha256:…",
// "fixed:sha256:…", "fixed:r:sha256:…", or "" for none.
func (c ContentAddress) String() string {
	switch {
	case c.IsZero():
		return ""
	case c.Method == Text:
		return "text:" + c.Hash.String()
	}
	return "fixed:" + c.Method.Prefix() + c.Hash.String()
}

// ParseContentAddress reads the form that String writes. The empty string is
// none.
func ParseContentAddress(s string) (ContentAddress, error) {
	if s == "" {
		return ContentAddress{}, nil
	}
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return ContentAddress{}, fmt.Errorf("not a content address because it is not in the form '<prefix>:<rest>': %s", clip(s))
	}
	var c ContentAddress
	switch kind {
	case "text":
		c.Method = Text
	case "fixed":
		c.Method, rest = CutMethodPrefix(rest)
		if c.Method == Text {
			return ContentAddress{}, fmt.Errorf("content address '%s' has the method 'text' in a fixed address", clip(s))
		}
	default:
		return ContentAddress{}, fmt.Errorf("content address prefix '%s' is unrecognized. Recogonized prefixes are 'text' or 'fixed'", clip(kind))
	}
	h, err := ParseHash(rest)
	if err != nil {
		return ContentAddress{}, fmt.Errorf("content address '%s': %w", clip(s), err)
	}
	if c.Method == Text && h.Algorithm() != SHA256 {
		return ContentAddress{}, fmt.Errorf("content address '%s': text is hashed with sha256 only", clip(s))
	}
	c.Hash = h
	return c, nil
}

// References are the store objects that a content-addressed object refers to:
// they are part of its address.
type References struct {
	Others []StorePath // sorted or not; without the object itself
	Self   bool
}

// IsEmpty tells whether there are none.
func (r References) IsEmpty() bool { return len(r.Others) == 0 && !r.Self }

// MakeContentAddressedPath computes the store path of an object from its
// content address, its references and its name. References are legal only with
// Text (none to itself) and with Recursive SHA-256.
func MakeContentAddressedPath(dir StoreDir, name string, c ContentAddress, refs References) (StorePath, error) {
	switch {
	case c.IsZero():
		return "", fmt.Errorf("compute path of '%s': no content address", clip(name))
	case c.Method == Text:
		if c.Hash.Algorithm() != SHA256 {
			return "", fmt.Errorf("compute path of '%s': text is hashed with sha256 only", clip(name))
		}
		if refs.Self {
			return "", fmt.Errorf("compute path of '%s': text cannot refer to itself", clip(name))
		}
		return MakeStorePath(dir, pathType("text", dir, refs), c.Hash, name)
	case c.Method == Recursive && c.Hash.Algorithm() == SHA256:
		return MakeStorePath(dir, pathType("source", dir, refs), c.Hash, name)
	}
	if !refs.IsEmpty() {
		return "", fmt.Errorf("fixed output derivation '%s' is not allowed to refer to other store paths.\nYou may need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for more details.", clip(name))
	}
	inner := "fixed:out:" + c.Method.Prefix() + c.Hash.Base16Prefixed() + ":"
	return MakeStorePath(dir, "output:out", HashBytes(SHA256, []byte(inner)), name)
}

// pathType is the first part of a fingerprint: the kind of the object and what
// it refers to.
func pathType(kind string, dir StoreDir, refs References) string {
	others := slices.Clone(refs.Others)
	slices.Sort(others)
	var b strings.Builder
	b.WriteString(kind)
	for _, p := range slices.Compact(others) {
		b.WriteByte(':')
		b.WriteString(dir.Join(p))
	}
	if refs.Self {
		b.WriteString(":self")
	}
	return b.String()
}

// MakeOutputPath computes the path of an input-addressed output from the
// derivation's masked hash (see package aterm) and name.
func MakeOutputPath(dir StoreDir, output OutputName, masked Hash, drvName string) (StorePath, error) {
	return MakeStorePath(dir, "output:"+string(output), masked, OutputPathName(drvName, output))
}

// OutputPathName is the name of an output's store object: the derivation's
// name, and the output's where it is not "out".
func OutputPathName(drvName string, output OutputName) string {
	if output == "out" {
		return drvName
	}
	return drvName + "-" + string(output)
}

// Placeholder stands for the path of a derivation's own output in its
// attributes, as builtins.placeholder gives it.
func Placeholder(output OutputName) string {
	return "/" + HashBytes(SHA256, []byte("nix-output:"+string(output))).Nix32()
}

// DownstreamPlaceholder stands for an output of another derivation whose path
// is not known before it is built. drv is that derivation, with its extension.
func DownstreamPlaceholder(drv StorePath, output OutputName) string {
	name := strings.TrimSuffix(drv.Name(), DrvExtension)
	clear := "nix-upstream-output:" + drv.HashPart() + ":" + OutputPathName(name, output)
	return "/" + HashBytes(SHA256, []byte(clear)).Nix32()
}

// ComputedPlaceholder stands for an output of a derivation that is itself an
// output, and which parent stands for: DownstreamPlaceholder or again
// ComputedPlaceholder.
func ComputedPlaceholder(parent string, output OutputName) string {
	const folded = 20 // bytes, as in store paths
	digest, err := base32.DecodeString(strings.TrimPrefix(parent, "/"))
	if err != nil {
		return ""
	}
	var short [folded]byte
	for i, b := range digest {
		short[i%folded] ^= b
	}
	clear := "nix-computed-output:" + base32.EncodeToString(short[:]) + ":" + string(output)
	return "/" + HashBytes(SHA256, []byte(clear)).Nix32()
}

// ScratchPath is where an output is built whose final path is not known yet, or
// is in use. of is "name:" and the output's name (path not known) or the base
// name of the path in use. It cannot collide with the path of any real object.
func ScratchPath(dir StoreDir, drv StorePath, of string, name string) (StorePath, error) {
	return MakeStorePath(dir, "rewrite:"+string(drv)+":"+of, NewHash(SHA256, make([]byte, SHA256.Size())), name)
}
