package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Ready asks the server at an address whether it takes builds (grpc.health.v1 about
// kiln.v1.Executor). nil says that it does. Whoever can connect may ask. cfg is as for Dial.
func Ready(ctx context.Context, a Address, cfg *tls.Config) error {
	return healthy(ctx, a, cfg, kilnv1.Executor_ServiceDesc.ServiceName)
}

// Alive is Ready for a server as a whole (grpc.health.v1 about ""): one that drains is alive
// and not ready.
func Alive(ctx context.Context, a Address, cfg *tls.Config) error { return healthy(ctx, a, cfg, "") }

func healthy(ctx context.Context, a Address, cfg *tls.Config, service string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask executor service at %s for its health: %w", a.Target, err)
		}
	}()
	c, err := connect(a, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	reply, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	if reply.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("it is %s", strings.ToLower(strings.ReplaceAll(reply.Status.String(), "_", " ")))
	}
	return nil
}
