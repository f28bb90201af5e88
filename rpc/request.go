package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bounds of requests.
const (
	maxID         = 128
	maxTargets    = 10000
	maxLabels     = 16
	maxLabel      = 256
	maxDerivation = 16 << 20 // bytes of a .drv text
	maxPaths      = 100000
	maxRounds     = 1000
)

// invalid is the error about a field of a request.
func invalid(field, format string, args ...any) error {
	text := valid(fmt.Sprintf(format, args...))
	st := status.New(codes.InvalidArgument, valid(field)+": "+text)
	if detailed, err := st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: valid(field), Description: text}}}); err == nil {
		st = detailed
	}
	return st.Err()
}

// valid makes a text that a message can have.
func valid(text string) string { return strings.ToValidUTF8(text, "�") }

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return invalid("id", "it has %d characters, and has to have 1 to %d", len(id), maxID)
	}
	for i := range len(id) {
		c := id[i]
		alphanumeric := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return invalid("id", "%q: it may have letters, digits, '.', '_' and '-', and has to begin with a letter or a digit", id)
		}
	}
	return nil
}

// checkRequest looks at what needs no store.
func checkRequest(m *kilnv1.BuildRequest) error {
	switch {
	case len(m.Targets) == 0 || len(m.Targets) > maxTargets:
		return invalid("targets", "there are %d, and have to be 1 to %d", len(m.Targets), maxTargets)
	case len(m.Labels) > maxLabels:
		return invalid("labels", "there are %d, and may be %d at most", len(m.Labels), maxLabels)
	case m.Rounds > maxRounds:
		return invalid("rounds", "%d is more than %d", m.Rounds, maxRounds)
	case m.Rounds > 0 && m.Mode != kilnv1.BuildMode_BUILD_MODE_CHECK:
		return invalid("rounds", "they are for BUILD_MODE_CHECK only")
	}
	if _, ok := kilnv1.BuildMode_name[int32(m.Mode)]; !ok {
		return invalid("mode", "%d is none", m.Mode)
	}
	if _, ok := kilnv1.IsolationLevel_name[int32(m.MinIsolation)]; !ok {
		return invalid("min_isolation", "%d is none", m.MinIsolation)
	}
	for name, value := range m.Labels {
		if len(name) > maxLabel || len(value) > maxLabel {
			return invalid("labels", "%.40q has more than %d bytes", name, maxLabel)
		}
	}
	return checkLimits(m.Limits)
}

// limitFieldNames are the fields of limits by the names that nix has for them.
var limitFieldNames = map[string]string{
	"memory": "memory_bytes", "processes": "processes", "cpu-weight": "cpu_weight", "cpu-quota": "cpu_quota", "timeout": "timeout",
	"silence": "max_silent", "log": "log_bytes", "output": "output_bytes", "build-dir": "build_dir_bytes",
}

func checkLimits(m *kilnv1.Limits) error {
	if m == nil {
		return nil
	}
	if m.Timeout != nil && m.Timeout.CheckValid() != nil {
		return invalid("limits.timeout", "it is no duration")
	}
	if m.MaxSilent != nil && m.MaxSilent.CheckValid() != nil {
		return invalid("limits.max_silent", "it is no duration")
	}
	l := limitsOf(m)
	if l.Timeout > 0 && l.MaxSilent > l.Timeout {
		return invalid("limits.max_silent", "%v of silence is longer than the %v that the whole build may take", l.MaxSilent, l.Timeout)
	}
	err := l.Validate()
	var limit *nix.LimitError
	if errors.As(err, &limit) {
		return invalid("limits."+limitFieldNames[limit.Name], "%s", limit.Text)
	}
	return err
}

// request turns a message into a request. Derivations that it brings as text are added to
// the store.
func (s *Server) request(ctx context.Context, st Store, m *kilnv1.BuildRequest) (*nix.BuildRequest, error) {
	r := &nix.BuildRequest{Limits: limitsOf(m.Limits), Rounds: int(m.Rounds), MinIsolation: levelName(m.MinIsolation), KeepSandbox: m.KeepSandbox, Basic: make(map[nix.StorePath]*nix.BasicDerivation)}
	trusted := callerOf(ctx).role >= kilnv1.Role_ROLE_ADMIN
	switch m.Mode {
	case kilnv1.BuildMode_BUILD_MODE_REPAIR:
		if !trusted {
			return nil, status.Error(codes.PermissionDenied, "mode: the role admin is needed to repair")
		}
		r.Mode = nix.BuildRepair
	case kilnv1.BuildMode_BUILD_MODE_CHECK:
		r.Mode = nix.BuildCheck
	}
	var roots []nix.StorePath
	for i, t := range m.Targets {
		p, err := target(ctx, st, r, t, fmt.Sprintf("targets[%d]", i), trusted)
		if err != nil {
			return nil, err
		}
		r.Paths = append(r.Paths, p)
		roots = append(roots, p.Path)
	}
	// The caller may leave before the build begins.
	if err := st.AddTempRoot(ctx, roots...); err != nil {
		return nil, failed(err)
	}
	return r, nil
}

func target(ctx context.Context, st Store, r *nix.BuildRequest, t *kilnv1.Target, field string, trusted bool) (p nix.DerivedPath, err error) {
	dir := st.Dir()
	switch what := t.What.(type) {
	case *kilnv1.Target_StorePath:
		if p.Path, err = dir.Parse(what.StorePath); err != nil {
			return p, invalid(field+".store_path", "%v", err)
		}
	case *kilnv1.Target_DerivationText:
		if p.Path, err = addDerivation(ctx, st, what.DerivationText, field+".derivation_text"); err != nil {
			return p, err
		}
	case *kilnv1.Target_Resolved:
		basic, path, err := resolved(ctx, st, what.Resolved, field+".resolved", trusted)
		if err != nil {
			return p, err
		}
		p.Path, r.Basic[path] = path, basic
	default:
		return p, invalid(field, "it says neither a store path nor a derivation")
	}
	if len(t.Via) > 100 || len(t.Outputs) > 1000 {
		return p, invalid(field, "there are more outputs than any derivation has")
	}
	for i, v := range t.Via {
		if err := nix.CheckName(v); err != nil {
			return p, invalid(fmt.Sprintf("%s.via[%d]", field, i), "%v", err)
		}
		p.Via = append(p.Via, nix.OutputName(v))
	}
	switch {
	case t.DerivationItself && (len(t.Outputs) > 0 || len(t.Via) > 0):
		return p, invalid(field+".derivation_itself", "it contradicts outputs and via")
	case t.DerivationItself, !p.Path.IsDerivation() && len(t.Outputs) == 0 && len(t.Via) == 0:
		return p, nil
	case !p.Path.IsDerivation():
		return p, invalid(field+".outputs", "'%s' is no derivation", dir.Join(p.Path))
	case len(t.Outputs) == 0, slices.Equal(t.Outputs, []string{"*"}):
		p.Outputs = nix.AllOutputs
		return p, nil
	}
	for i, o := range t.Outputs {
		if err := nix.CheckName(o); err != nil {
			return p, invalid(fmt.Sprintf("%s.outputs[%d]", field, i), "%v", err)
		}
		p.Outputs.Names = append(p.Outputs.Names, nix.OutputName(o))
	}
	slices.Sort(p.Outputs.Names)
	p.Outputs.Names = slices.Compact(p.Outputs.Names)
	return p, nil
}

// addDerivation adds a derivation to the store that was brought as text.
func addDerivation(ctx context.Context, st Store, m *kilnv1.DerivationText, field string) (nix.StorePath, error) {
	if m == nil || len(m.Text) > maxDerivation {
		return "", invalid(field+".text", "it has more than %d bytes", maxDerivation)
	}
	if err := nix.CheckName(m.Name); err != nil {
		return "", invalid(field+".name", "%v", err)
	}
	drv, err := aterm.Parse(st.Dir(), m.Name, m.Text, aterm.Limits{})
	if err != nil {
		return "", invalid(field+".text", "%v", err)
	}
	inputs := slices.Concat(slices.Collect(maps.Keys(drv.InputDrvs)), drv.InputSrcs)
	missing, err := missingOf(ctx, st, inputs)
	if err != nil {
		return "", failed(err)
	}
	if len(missing) > 0 {
		return "", invalid(field+".text", "its input '%s' is not in the store, nor are %d others: upload them first", st.Dir().Join(missing[0]), len(missing)-1)
	}
	path, _, _, err := aterm.DerivationPath(st.Dir(), drv)
	if err == nil {
		err = st.Hasher().CheckInvariants(ctx, path, drv)
	}
	if err != nil {
		return "", invalid(field+".text", "%v", err)
	}
	if path, err = st.AddDerivation(ctx, drv); err != nil {
		return "", failed(err)
	}
	return path, nil
}

// resolved reads a derivation that is in no store. Where its outputs do not follow from
// their content, whoever says where they belong could put anything there: that is for
// admins, unless the paths follow from this very derivation.
func resolved(ctx context.Context, st Store, m *kilnv1.ResolvedDerivation, field string, trusted bool) (*nix.BasicDerivation, nix.StorePath, error) {
	dir := st.Dir()
	path, err := dir.Parse(m.GetStorePath())
	if err == nil && !path.IsDerivation() {
		err = fmt.Errorf("it does not end in %s", nix.DrvExtension)
	}
	if err != nil {
		return nil, "", invalid(field+".store_path", "%v", err)
	}
	if err := nix.CheckName(m.Name); err != nil {
		return nil, "", invalid(field+".name", "%v", err)
	}
	d := &nix.BasicDerivation{Name: m.Name, System: m.System, Builder: m.Builder, Args: m.Args, Env: m.Env, Outputs: make(map[nix.OutputName]nix.DerivationOutput)}
	for i, in := range m.InputSources {
		p, err := dir.Parse(in)
		if err != nil {
			return nil, "", invalid(fmt.Sprintf("%s.input_sources[%d]", field, i), "%v", err)
		}
		d.InputSrcs = append(d.InputSrcs, p)
	}
	slices.Sort(d.InputSrcs)
	d.InputSrcs = slices.Compact(d.InputSrcs)
	if err := st.AddTempRoot(ctx, d.InputSrcs...); err != nil {
		return nil, "", failed(err)
	}
	for name, o := range m.Outputs {
		where := fmt.Sprintf("%s.outputs[%q]", field, name)
		if err := nix.CheckName(name); err != nil {
			return nil, "", invalid(where, "%v", err)
		}
		if d.Outputs[nix.OutputName(name)], err = outputOf(dir, m.Name, nix.OutputName(name), o); err != nil {
			return nil, "", invalid(where, "%v", err)
		}
	}
	kind, err := d.Kind()
	if err != nil {
		return nil, "", invalid(field+".outputs", "%v", err)
	}
	if kind == nix.InputAddressed && !trusted {
		if err := st.Hasher().CheckInvariants(ctx, path, &nix.Derivation{BasicDerivation: *d}); err != nil {
			return nil, "", invalid(field+".outputs", "their paths do not follow from the derivation, so the role admin is needed: %v", err)
		}
	}
	return d, path, nil
}

func outputOf(dir nix.StoreDir, drv string, name nix.OutputName, m *kilnv1.DerivationOutput) (o nix.DerivationOutput, err error) {
	if m == nil {
		return o, errors.New("it says nothing")
	}
	if m.Path != "" {
		if o.Path, err = dir.Parse(m.Path); err != nil {
			return o, err
		}
	}
	if m.Method == "" {
		o.Kind = nix.InputAddressed
		if o.Path == "" || m.Hash != "" || m.HashAlgorithm != "" || m.Impure {
			return o, errors.New("without a method it has to have a path, and nothing else")
		}
		return o, nil
	}
	methods := []nix.ContentAddressMethod{nix.Flat, nix.Recursive, nix.Text, nix.Git}
	i := slices.IndexFunc(methods, func(c nix.ContentAddressMethod) bool { return c.String() == m.Method })
	if i < 0 {
		return o, fmt.Errorf("unknown method %q", m.Method)
	}
	o.Method = methods[i]
	if m.Hash == "" {
		o.Kind = nix.Floating
		if m.Impure {
			o.Kind = nix.Impure
		}
		if o.Path != "" {
			return o, errors.New("its path is not known without a hash")
		}
		o.Algorithm, err = nix.ParseHashAlgorithm(m.HashAlgorithm)
		return o, err
	}
	o.Kind = nix.Fixed
	if o.Hash, err = nix.ParseHash(m.Hash); err != nil {
		return o, err
	}
	o.Algorithm = o.Hash.Algorithm()
	want, err := nix.MakeContentAddressedPath(dir, nix.OutputPathName(drv, name), o.ContentAddress(), nix.References{})
	if err == nil && cmp.Or(o.Path, want) != want {
		err = fmt.Errorf("its path is not '%s', which follows from the hash", dir.Join(want))
	}
	o.Path = want
	return o, err
}

// resolvedMessage is the other way, for the client.
func resolvedMessage(dir nix.StoreDir, p nix.StorePath, d *nix.BasicDerivation) *kilnv1.ResolvedDerivation {
	m := &kilnv1.ResolvedDerivation{
		StorePath: dir.Join(p), Name: d.Name, System: d.System, Builder: d.Builder, Args: d.Args, Env: d.Env,
		InputSources: joined(dir, d.InputSrcs), Outputs: make(map[string]*kilnv1.DerivationOutput),
	}
	for name, o := range d.Outputs {
		out := &kilnv1.DerivationOutput{}
		switch o.Kind {
		case nix.Fixed:
			out.Path, out.Method, out.Hash = dir.Join(o.Path), o.Method.String(), o.Hash.String()
		case nix.Floating, nix.Impure:
			out.Method, out.HashAlgorithm, out.Impure = o.Method.String(), o.Algorithm.String(), o.Kind == nix.Impure
		default:
			if o.Path != "" {
				out.Path = dir.Join(o.Path)
			}
		}
		m.Outputs[string(name)] = out
	}
	return m
}
