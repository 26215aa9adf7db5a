package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/headgate/headgate/pkg/codat"
)

// Connections returns the connections of a company.
func (c *Client) Connections(ctx context.Context, company string, p Page) (List[codat.Connection], error) {
	var list List[codat.Connection]
	err := c.do(ctx, call{name: "Connections", method: http.MethodGet, path: []string{"companies", company, "connections"}, query: p.values(), company: company}, &list)
	return list, err
}

// A DataStatus says how fresh Codat's copy of a data type is.
type DataStatus struct {
	DataType               codat.DataType      `json:"dataType"`
	CurrentStatus          codat.DatasetStatus `json:"currentStatus"`
	LastSuccessfulSync     codat.Time          `json:"lastSuccessfulSync"` // zero before the first
	LatestSyncID           string              `json:"latestSyncId"`
	LatestSuccessfulSyncID string              `json:"latestSuccessfulSyncId"`
}

// DataStatus returns the status of every data type of a company.
func (c *Client) DataStatus(ctx context.Context, company string) (map[codat.DataType]DataStatus, error) {
	var statuses map[codat.DataType]*DataStatus // a data type can be null
	err := c.do(ctx, call{name: "DataStatus", method: http.MethodGet, path: []string{"companies", company, "dataStatus"}, company: company}, &statuses)
	all := map[codat.DataType]DataStatus{}
	for name, status := range statuses {
		if status != nil {
			all[name] = *status
		}
	}
	return all, err
}

// A PullOperation is one read of one data type over one connection.
type PullOperation struct {
	ID                string              `json:"id"` // of the dataset
	Company           string              `json:"companyId"`
	Connection        string              `json:"connectionId"`
	DataType          codat.DataType      `json:"dataType"`
	Status            codat.DatasetStatus `json:"status"`
	StatusDescription string              `json:"statusDescription"`
	ErrorMessage      string              `json:"errorMessage"`
	Requested         codat.Time          `json:"requested"`
	Completed         codat.Time          `json:"completed"`
	Progress          float64             `json:"progress"` // percent
	IsCompleted       bool                `json:"isCompleted"`
	IsErrored         bool                `json:"isErrored"`
}

// DataHistory returns the reads of a company.
func (c *Client) DataHistory(ctx context.Context, company string, p Page) (List[PullOperation], error) {
	var list List[PullOperation]
	err := c.do(ctx, call{name: "DataHistory", method: http.MethodGet, path: []string{"companies", company, "data", "history"}, query: p.values(), company: company}, &list)
	return list, err
}

// RefreshAll asks Codat to read every data type of a company that it reads when a connection is linked. The reads follow
// later, and their end comes by webhook.
func (c *Client) RefreshAll(ctx context.Context, company string) error {
	return c.do(ctx, call{name: "RefreshAll", method: http.MethodPost, path: []string{"companies", company, "data", "all"}, company: company}, nil)
}

// Refresh asks Codat to read one data type of a company, over one connection or, with "", over all.
func (c *Client) Refresh(ctx context.Context, company string, dataType codat.DataType, connection string) (PullOperation, error) {
	k := call{name: "Refresh", method: http.MethodPost, path: []string{"companies", company, "data", "queue", string(dataType)}, company: company}
	if connection != "" {
		k.query = url.Values{"connectionId": {connection}}
	}
	var op PullOperation
	err := c.do(ctx, k, &op)
	return op, err
}
