// Command plain is the handler that a careful developer would write in an hour: echo with its usual middleware, a zap
// line for each request, the official library, a synchronous publish. The benchmark compares the ingress with it.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/zap"
)

func main() {
	config := zap.NewProductionConfig()
	config.Sampling = nil // an access log has every request
	log, err := config.Build()
	if err != nil {
		panic(err)
	}
	if err := run(log); err != nil {
		log.Fatal("stopped", zap.Error(err))
	}
}

func run(log *zap.Logger) error {
	webhook, err := svix.NewWebhook(os.Getenv("SECRET"))
	if err != nil {
		return err
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}

	e := echo.New()
	e.HideBanner = true
	e.Use(middleware.Recover(), middleware.RequestID(), middleware.BodyLimit("1M"))
	e.Use(middleware.RequestLoggerWithConfig(middleware.RequestLoggerConfig{
		LogMethod: true, LogURI: true, LogStatus: true, LogLatency: true, LogRemoteIP: true, LogRequestID: true,
		LogValuesFunc: func(_ echo.Context, v middleware.RequestLoggerValues) error {
			log.Info("request", zap.String("method", v.Method), zap.String("uri", v.URI), zap.Int("status", v.Status),
				zap.Duration("latency", v.Latency), zap.String("remote", v.RemoteIP), zap.String("request_id", v.RequestID))
			return nil
		},
	}))
	e.POST("/webhooks/codat", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return echo.NewHTTPError(http.StatusBadRequest, "cannot read the body")
		}
		if err := webhook.Verify(body, c.Request().Header); err != nil {
			return echo.NewHTTPError(http.StatusUnauthorized, "invalid signature")
		}
		var event struct {
			EventType string `json:"eventType"`
		}
		if err := json.Unmarshal(body, &event); err != nil || event.EventType == "" {
			return echo.NewHTTPError(http.StatusBadRequest, "not an event")
		}
		msg := nats.NewMsg(os.Getenv("SOURCE") + ".events." + event.EventType)
		msg.Data = body
		msg.Header.Set(jetstream.MsgIDHeader, c.Request().Header.Get("webhook-id"))
		ctx, cancel := context.WithTimeout(c.Request().Context(), 10*time.Second)
		defer cancel()
		if _, err := js.PublishMsg(ctx, msg); err != nil {
			log.Error("publish", zap.Error(err))
			return echo.NewHTTPError(http.StatusServiceUnavailable, "try again")
		}
		return c.NoContent(http.StatusNoContent)
	})
	server := &http.Server{
		Addr: os.Getenv("LISTEN"), Handler: e,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	return server.ListenAndServe()
}
