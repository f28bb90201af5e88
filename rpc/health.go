package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Healthy asks the server at an address whether it takes builds (grpc.health.v1). nil says
// that it does. Whoever can connect may ask. cfg is as for Dial.
func Healthy(ctx context.Context, a Address, cfg *tls.Config) (err error) {
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
	reply, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if reply.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("it is %s", strings.ToLower(strings.ReplaceAll(reply.Status.String(), "_", " ")))
	}
	return nil
}
