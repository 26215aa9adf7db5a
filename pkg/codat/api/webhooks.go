package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/headgate/headgate/pkg/codat"
)

const (
	// MaxWebhooks is how many webhook consumers Codat allows.
	MaxWebhooks = 50
	// MaxCompanyTags is how many company tags a webhook consumer may have.
	MaxCompanyTags = 10
)

// A Webhook is a webhook consumer: an endpoint that Codat posts to.
type Webhook struct {
	ID  string `json:"id,omitempty"` // of the consumer; given by Codat
	URL string `json:"url"`
	// Disabled is the only sign in the API that Codat has switched an endpoint off, after five days of failures. Only
	// Codat's Portal switches it on again.
	Disabled    bool     `json:"disabled"`
	EventTypes  []string `json:"eventTypes"`            // none are all
	CompanyTags []string `json:"companyTags,omitempty"` // key:value; an event of a company with any of them is sent
}

// Webhooks returns all webhook consumers, at most 50. Their signing secrets are in Codat's Portal only.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	var list struct {
		Results []Webhook `json:"results"`
	}
	err := c.do(ctx, call{name: "Webhooks", method: http.MethodGet, path: []string{"webhooks"}}, &list)
	return list.Results, err
}

// CreateWebhook makes a webhook consumer and returns it with its id.
func (c *Client) CreateWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	w.ID = ""
	body, err := json.Marshal(w)
	if err != nil {
		return Webhook{}, &invalidError{"CreateWebhook", err}
	}
	var made Webhook
	err = c.do(ctx, call{name: "CreateWebhook", method: http.MethodPost, path: []string{"webhooks"}, body: body, contentType: "application/json"}, &made)
	return made, err
}

// DeleteWebhook deletes a webhook consumer. What Codat still had to deliver to it is dropped.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	return c.do(ctx, call{name: "DeleteWebhook", method: http.MethodDelete, path: []string{"webhooks", id}}, nil)
}

// Unsubscribed returns the types of codat.Current that none of the webhook consumers has, in ascending order. A consumer that is
// disabled, or has company tags, counts as any other.
func Unsubscribed(all []Webhook) []string {
	return slices.DeleteFunc(codat.Current(), func(typ string) bool {
		return slices.ContainsFunc(all, func(w Webhook) bool { return len(w.EventTypes) == 0 || slices.Contains(w.EventTypes, typ) })
	})
}
