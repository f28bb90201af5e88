package rpc

import (
	"context"
	"fmt"
	"net"
	"os"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// Access says who may do what. The user that the server runs as and root may do
// everything on Unix sockets.
type Access struct {
	// Users has the roles of the users of this machine, who come by a Unix socket.
	Users map[uint32]kilnv1.Role
	// OtherUsers is the role of those that are not among Users.
	OtherUsers kilnv1.Role
	// Certificates has the roles of clients with a certificate, by a URI, a DNS name or the
	// common name that stands in it; what is named first in this order counts.
	Certificates map[string]kilnv1.Role
	// Plaintext is the role of whoever comes by a socket without encryption.
	Plaintext kilnv1.Role
}

// caller is who makes a request.
type caller struct {
	name string // "user:1000", "cert:scheduler", "plaintext"
	role kilnv1.Role
}

// peerUser is what the kernel says of the other end of a Unix socket.
type peerUser struct {
	credentials.CommonAuthInfo
	uid uint32
}

func (peerUser) AuthType() string { return "unix-peer" }

// identify finds out who makes a request.
func (a *Access) identify(ctx context.Context) caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{name: "nobody"}
	}
	switch info := p.AuthInfo.(type) {
	case peerUser:
		c := caller{name: fmt.Sprintf("user:%d", info.uid), role: a.OtherUsers}
		if role, ok := a.Users[info.uid]; ok {
			c.role = role
		}
		if info.uid == 0 || int(info.uid) == os.Geteuid() {
			c.role = kilnv1.Role_ROLE_ADMIN
		}
		return c
	case credentials.TLSInfo:
		if len(info.State.VerifiedChains) == 0 {
			return caller{name: "nobody"}
		}
		return a.certified(info)
	}
	return caller{name: "plaintext", role: a.Plaintext}
}

func (a *Access) certified(info credentials.TLSInfo) caller {
	leaf := info.State.VerifiedChains[0][0]
	var names []string
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	names = append(append(names, leaf.DNSNames...), leaf.Subject.CommonName)
	for _, name := range names {
		if role, ok := a.Certificates[name]; ok && name != "" {
			return caller{name: "cert:" + name, role: role}
		}
	}
	return caller{name: "cert:" + leaf.Subject.CommonName}
}

// needed is the role that a method needs. Methods that are not here need none: they are
// those that tell whether the service lives.
var needed = map[string]kilnv1.Role{
	kilnv1.Executor_Build_FullMethodName:           kilnv1.Role_ROLE_SUBMIT,
	kilnv1.Executor_GetBuild_FullMethodName:        kilnv1.Role_ROLE_WATCH,
	kilnv1.Executor_ListBuilds_FullMethodName:      kilnv1.Role_ROLE_WATCH,
	kilnv1.Executor_WatchBuild_FullMethodName:      kilnv1.Role_ROLE_WATCH,
	kilnv1.Executor_CancelBuild_FullMethodName:     kilnv1.Role_ROLE_SUBMIT,
	kilnv1.Executor_WaitBuild_FullMethodName:       kilnv1.Role_ROLE_WATCH,
	kilnv1.Executor_Enter_FullMethodName:           kilnv1.Role_ROLE_ADMIN,
	kilnv1.Executor_DiscardSandbox_FullMethodName:  kilnv1.Role_ROLE_ADMIN,
	kilnv1.Executor_Drain_FullMethodName:           kilnv1.Role_ROLE_ADMIN,
	kilnv1.Executor_GetCapabilities_FullMethodName: kilnv1.Role_ROLE_WATCH,
	kilnv1.Store_QueryMissing_FullMethodName:       kilnv1.Role_ROLE_WATCH,
	kilnv1.Store_GetPathInfo_FullMethodName:        kilnv1.Role_ROLE_WATCH,
	kilnv1.Store_Upload_FullMethodName:             kilnv1.Role_ROLE_SUBMIT,
	kilnv1.Store_Download_FullMethodName:           kilnv1.Role_ROLE_WATCH,

	reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName: kilnv1.Role_ROLE_WATCH,
}

type callerKey struct{}

// callerOf is who makes a request that was let in.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit lets a request in, or refuses it.
func (a *Access) admit(ctx context.Context, method string) (context.Context, error) {
	c := a.identify(ctx)
	if want := needed[method]; c.role < want {
		return nil, status.Errorf(codes.PermissionDenied, "%s may not call %s: its role is %s, and %s is needed; the setting 'service-roles' gives roles",
			c.name, method, roleName(c.role), roleName(want))
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := s.cfg.Access().admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := s.cfg.Access().admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, admitted{ss, ctx})
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (s admitted) Context() context.Context { return s.ctx }

var roleNames = map[kilnv1.Role]string{
	kilnv1.Role_ROLE_UNSPECIFIED: "none", kilnv1.Role_ROLE_WATCH: "watch", kilnv1.Role_ROLE_SUBMIT: "submit", kilnv1.Role_ROLE_ADMIN: "admin",
}

func roleName(r kilnv1.Role) string { return roleNames[r] }

// ParseRole reads a role: "none", "watch", "submit" or "admin".
func ParseRole(text string) (kilnv1.Role, error) {
	for role, name := range roleNames {
		if name == text {
			return role, nil
		}
	}
	return 0, fmt.Errorf("unknown role '%s': choose none, watch, submit or admin", text)
}

// peerCredentials has the kernel say who is at the other end of a Unix socket.
type peerCredentials struct{}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("these are credentials of servers")
}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("identify peer: %T is no Unix socket", conn)
	}
	uid, err := peerUID(unix)
	if err != nil {
		return nil, nil, fmt.Errorf("identify peer: %w", err)
	}
	return conn, peerUser{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, uid}, nil
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }
func (peerCredentials) OverrideServerName(string) error           { return nil }
