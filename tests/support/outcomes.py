"""What became of checkouts, as the database tells it: by their items, for a purchase writes those alone."""

CHECKOUTS = """
    (SELECT checkout.code, checkout.sale_id, checkout.item_id, checkout.user_id,
            checkout.created_at, checkout.expires_at,
            CASE WHEN item.id IS NULL THEN checkout.state ELSE 'purchased' END AS state,
            CASE WHEN item.id IS NULL THEN checkout.purchased_at
                 ELSE greatest(item.purchased_at, checkout.created_at) END AS purchased_at
     FROM sales_checkout AS checkout LEFT JOIN sales_saleitem AS item
         ON item.sale_id = checkout.sale_id AND item.code = checkout.code
        AND item.state = 'sold' AND checkout.state = 'held') AS sales_checkout
"""
"""Stands in a query where the table ``sales_checkout`` would."""
